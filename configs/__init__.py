"""Shipped run configurations: each file's `get_config()` returns a `RunConfig`."""
