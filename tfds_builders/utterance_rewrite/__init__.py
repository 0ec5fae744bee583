"""Incomplete utterances and what they mean (Su et al., ACL 2019)."""
