"""JDDC 2.1: multimodal customer service."""
