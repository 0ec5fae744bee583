"""Published figures as package data: one JSON file per table of `mmjax.report`."""
