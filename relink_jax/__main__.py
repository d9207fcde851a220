"""`python -m relink_jax` is `relink`.

Python puts the current directory in front of its path for `-m`. It is taken off again before anything else is imported, so that a file of
that directory stands in for no library, unless the directory is the checkout that relink_jax itself came from.
"""

import os
import sys

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]) and os.getcwd() != _CHECKOUT:
    del sys.path[0]

from relink_jax import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main())
