"""The public Python interface for embeddings you already have: `audit(...)` on arrays, `load_embeddings(directory)` on files.

Neither needs an encoder, flax, torch or transformers.
"""

from relink_jax.audit.entry import audit
from relink_jax.audit.importer import load_embeddings
from relink_jax.audit.result import AuditResult

__all__ = ["AuditResult", "audit", "load_embeddings"]
