"""DP-SGD on projection heads: objectives, clipping, noise, accounting, ledger."""
