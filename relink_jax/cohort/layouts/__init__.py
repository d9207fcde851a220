"""Writes synthetic studies as the published archives lay theirs out, so that loaders can be tried before access is granted."""
