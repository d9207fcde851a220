"""Meshes, progress and plans."""
