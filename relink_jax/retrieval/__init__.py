"""Streamed exact counting and closed-form expectations."""
