"""Errors that say what, where, expected and found in one sentence, with documented exit codes.

Every error a user can cause derives from `RelinkError`, whose `exit_code` the command line returns. Messages never hold
report text, raw identifiers or absolute paths of the user's archive: rows are named by number, identifiers are counted.

Exit codes (the numbers follow sysexits.h where one fits):
  0 done; 2 wrong command line, configuration or cluster; 65 bad input data; 70 internal error, failed self-check, or nothing moved for too long;
  74 store damaged, of another run, full or not writable; 75 stopped early but resumable.
A process whose peer died may also be ended by jax's runtime, from C++ with a signal (134 in a shell): the peer's own code says why.
"""

import difflib
from collections.abc import Iterable


class RelinkError(Exception):
    """Base of every error relink_jax raises on purpose; exit code 70."""

    exit_code = 70
    elsewhere = False  # whether another process of the command has told it already


class UsageError(RelinkError):
    """A wrong stage, flag, field or value on the command line or in a config; exit code 2."""

    exit_code = 2


class DataError(RelinkError):
    """Input data that cannot be audited as given; exit code 65."""

    exit_code = 65


class StoreError(RelinkError):
    """A damaged, incomplete or foreign artifact in a workdir; exit code 74."""

    exit_code = 74


class StoppedError(RelinkError):
    """A stage that was asked to stop and did, at a point from which the same command goes on; exit code 75."""

    exit_code = 75


class UnsoundError(RelinkError):
    """A privacy claim that the mechanism does not support, or a failed self-check; exit code 70."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the known name nearest to `name`, or an empty string when none is near.

    Example: >>> suggest('audti', ['audit', 'embed'])  ->  "; did you mean 'audit'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def describe(what: str, where: str, expected: str, found: str) -> str:
    """Returns the house's one-sentence message: what, where, expected and found."""
    return f"{what} in {where}: expected {expected}, found {found}"
