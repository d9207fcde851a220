"""Synthetic archives as `relink cohort write` makes them."""

import contextlib
import io

from relink_jax import cli


def write(layout, directory, *words):
    """Writes an archive and returns the flags that the command says read it."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert cli.main(["cohort", "write", f"--layout={layout}", f"--to={directory}", *words]) == 0
    return [line.strip() for line in told.getvalue().splitlines() if line.strip().startswith("--config.")]
