"""People judge generated answers: blind sheets out, ratings in, agreement and tables."""
