"""Plan, run or submit a grid of models, heads, pool sizes and strata. Main of `relink sweep`; from a checkout also `python -m launch.sweep`."""

import sys
from collections.abc import Sequence

from relink_jax import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stage with the command-line words `argv` and returns the exit code."""
    return cli.launch("sweep", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
