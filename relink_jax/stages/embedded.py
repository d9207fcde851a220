"""The cohort as stages after embedding read it: with the features that were made from it and no other."""

from relink_jax import errors
from relink_jax.cohort import schema
from relink_jax.stages import context
from relink_jax.store import shards
from relink_jax.store import workdir as workdir_lib


def load_cohort(found: workdir_lib.Workdir) -> schema.Cohort:
    """Returns the saved cohort; `StoreError` when there is none, or when features in the workdir were made from other tables."""
    cohort = context.load_cohort(found)
    digest = cohort.digest()
    for path in sorted((found.root / "features").glob("*/*/manifest.json")):
        if shards.manifest(path.parent)["identity"].get("cohort", digest) != digest:
            where = f"features '{path.parent.parent.name}/{path.parent.name}'"
            raise errors.StoreError(errors.describe("stale features", where, "the digest of the cohort", "that of another; use a fresh workdir"))
    return cohort
