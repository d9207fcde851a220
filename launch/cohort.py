"""Read or generate a cohort and check it. Main of `relink cohort`; from a checkout also `python -m launch.cohort`."""

import sys
from collections.abc import Sequence

from relink_jax import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stage with the command-line words `argv` and returns the exit code."""
    return cli.launch("cohort", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
