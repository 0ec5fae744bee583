"""The user's own dialogues: a folder with train.jsonl, dev.jsonl, test.jsonl."""
