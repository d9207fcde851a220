"""The results schema, figures and the self-contained page."""
