"""PhotoChat: dialogues in which one speaker shares a photo; and a small generated set like it."""
