"""Progress bars with rate and ETA on stderr, on process 0 only, quiet when not wanted.

`RELINK_PROGRESS=0` silences them; when stderr is not a terminal a bar prints at most one line every 10 seconds.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(total: int, what: str, unit: str = "rows", first: int = 0) -> Any:
    """Returns a tqdm bar (context manager with `.update(n)`) that starts at `first` of `total` units.

    Args: what: one or two words shown left of the bar, such as 'embed images'.
    """
    quiet = os.environ.get("RELINK_PROGRESS") == "0" or _process_index() != 0
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, initial=first, desc=what, unit=f" {unit}", disable=quiet, mininterval=interval, dynamic_ncols=True, leave=sys.stderr.isatty())


def track(items: Iterable[Any], total: int, what: str, unit: str = "steps") -> Iterable[Any]:
    """Yields `items` while showing a bar over `total` of them."""
    with bar(total, what, unit) as shown:
        for item in items:
            yield item
            shown.update(1)


def _process_index() -> int:
    jax = sys.modules.get("jax")
    return 0 if jax is None else int(jax.process_index())


def say(text: str) -> None:
    """Prints text between bars on stderr, under the same rules as a bar."""
    if os.environ.get("RELINK_PROGRESS") != "0" and _process_index() == 0:
        tqdm.write(text, file=sys.stderr)
