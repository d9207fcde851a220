"""relink_jax: audit and mitigate cross-modal linkage risk in clinical vision-language models.

cohort -> features -> embeddings -> counts -> results -> page, with heads trained on the features under DP-SGD.
`relink_jax.audit(...)` measures embeddings you already have; `relink --help` lists the stages of the whole road.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "audit"]


def __getattr__(name: str) -> Any:
    """Loads `audit` on first use, so that importing the package (and `relink --help`) stays fast."""
    if name == "audit":
        from relink_jax import api

        return api.audit
    raise AttributeError(f"module 'relink_jax' has no attribute {name!r}")
