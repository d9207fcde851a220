"""Frozen towers in Flax, strict conversion, preprocessing and embedding."""
