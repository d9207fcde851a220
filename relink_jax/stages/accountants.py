"""The accountants stage: privacy ledgers side by side, priced by RDP and PLD."""

from collections.abc import Sequence

from relink_jax import config as config_lib
from relink_jax.privacy import compare


def run(config: config_lib.RunConfig, workdir: str, runs: Sequence[str] = ()) -> str:
    """Returns the comparison of the ledgers at `runs` (files or directories; the workdir's own heads when none is named).

    Raises: UsageError: neither runs nor a workdir; StoreError: no ledger there, or a damaged one.
    """
    return compare.compare(list(runs) or ([workdir] if workdir else []))


def describe(text: str) -> str:
    """Returns the comparison as it is."""
    return text
