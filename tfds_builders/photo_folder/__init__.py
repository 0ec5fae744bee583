"""The user's own photos: a folder of them, and what is said of them in JSON lines."""
