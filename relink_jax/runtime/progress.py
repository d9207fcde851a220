"""Progress bars with rate and ETA on stderr, on process 0 only, quiet when not wanted.

`RELINK_PROGRESS=0` silences them; when stderr is not a terminal, as in a batch job's log, a bar that ends
within 10 seconds prints nothing and a longer one at most one line every 10 seconds.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

_hushed = [0]


def bar(total: int, what: str, unit: str = "rows", first: int = 0) -> Any:
    """Returns a tqdm bar (context manager with `.update(n)`) that starts at `first` of `total` units.

    Args: what: one or two words shown left of the bar, such as 'embed images'.
    """
    quiet = _hushed[0] > 0 or os.environ.get("RELINK_PROGRESS") == "0" or _process_index() != 0
    terminal = sys.stderr.isatty()
    pace = {"mininterval": 0.2, "leave": True} if terminal else {"mininterval": 10.0, "delay": 10.0, "leave": False}
    return tqdm(total=total, initial=first, desc=what, unit=f" {unit}", disable=quiet, dynamic_ncols=True, **pace)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Shows no new bars inside: for work that is one step of a bar already shown."""
    _hushed[0] += 1
    try:
        yield
    finally:
        _hushed[0] -= 1


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


def notice(text: str) -> None:
    """Prints on stderr what the user must know about the outcome, bars or no bars, on process 0 only."""
    if _process_index() == 0:
        tqdm.write(text, file=sys.stderr)
