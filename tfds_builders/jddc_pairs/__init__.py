"""Pairs of context and answer of the JDDC challenge of 2018."""
