"""LCCC: short Chinese conversations."""
