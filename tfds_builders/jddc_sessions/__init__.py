"""Sessions of the JDDC challenges of 2018 and 2019."""
