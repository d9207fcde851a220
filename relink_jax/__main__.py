"""`python -m relink_jax` is `relink`."""

import sys

from relink_jax import cli

sys.exit(cli.main())
