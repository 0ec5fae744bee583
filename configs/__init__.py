"""One config file per task."""
