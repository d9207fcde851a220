"""Progress bars with rate and ETA on stderr, on process 0 only, quiet when not wanted.

`RELINK_PROGRESS=0` silences them; when stderr is not a terminal, as in a batch job's log, a bar that ends
within 10 seconds prints nothing and a longer one at most one line every 10 seconds. Every bar, shown or not, is heard by the watchdog and the log.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from relink_jax.runtime import cluster, logs, watchdog

_hushed = [0]


class _Bar(tqdm):
    """A bar whose updates, shown or not, tell the watchdog and the log that work moves."""

    def __init__(self, total: int, what: str, first: int, **shown: Any) -> None:
        self._what, self._all, self._first, self._moved, self._begun = what, total, first, 0.0, time.monotonic()
        super().__init__(total=total, desc=what, initial=first, **shown)

    def update(self, n: float | None = 1) -> bool | None:
        watchdog.beat()
        self._moved += n or 0
        logs.moved(self._what, self._first + self._moved, self._all, self._moved / max(time.monotonic() - self._begun, 1e-9))
        return super().update(n)


def bar(total: int, what: str, unit: str = "rows", first: int = 0) -> Any:
    """Returns a tqdm bar (context manager with `.update(n)`) that starts at `first` of `total` units.

    Args: what: one or two words shown left of the bar, such as 'embed images'.
    """
    quiet = _hushed[0] > 0 or os.environ.get("RELINK_PROGRESS") == "0" or cluster.index() != 0
    terminal = sys.stderr.isatty()
    pace = {"mininterval": 0.2, "leave": True} if terminal else {"mininterval": 10.0, "delay": 10.0, "leave": False}
    watchdog.beat()
    return _Bar(total, what, first, unit=f" {unit}", disable=quiet, dynamic_ncols=True, **pace)


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


def say(text: str) -> None:
    """Prints text between bars on stderr, under the same rules as a bar."""
    if os.environ.get("RELINK_PROGRESS") != "0" and cluster.index() == 0:
        tqdm.write(text, file=sys.stderr)


def notice(text: str) -> None:
    """Prints on stderr what the user must know about the outcome, bars or no bars, on process 0 only."""
    if cluster.index() == 0:
        tqdm.write(text, file=sys.stderr)
