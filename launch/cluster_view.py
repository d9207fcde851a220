"""Show the cluster. Main of `relink cluster`; from a checkout also `python -m launch.cluster_view`, since launch/cluster/ holds scripts."""

import sys
from collections.abc import Sequence

from relink_jax import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stage with the command-line words `argv` and returns the exit code."""
    return cli.launch("cluster", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
