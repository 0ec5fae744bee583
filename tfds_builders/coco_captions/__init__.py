"""MSCOCO captions, for those who have prepared them with TFDS."""
