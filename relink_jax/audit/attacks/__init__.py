"""Attacks beyond plain cosine. See `base`."""
