"""One package per dataset: a TFDS builder with its description, citation, tags and test data."""
