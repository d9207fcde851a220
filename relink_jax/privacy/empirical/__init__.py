"""Empirical audits: attacks on the training mechanism that can show a privacy claim to be wrong, and never show one to be right."""
