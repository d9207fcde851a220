"""The flags that every stage takes besides its own: processes, signals, watchdog and compile cache; `launch_words` describes them.

They are taken off the command line before the config is parsed, since jax's runtime must start before anything counts devices. This module
imports nothing heavy.
"""

import dataclasses
import reprlib
from collections.abc import Sequence
from typing import Any

from relink_jax import errors
from relink_jax.runtime.cluster import Settings
from relink_jax.stages import launch_words

STUCK_AFTER = 1800.0  # seconds, with several processes
_WHOLE = {"processes": 1, "process": 0} | dict.fromkeys(("expect_devices", "expect_processes", "init_timeout", "heartbeat_timeout", "shutdown_timeout"), 1)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a command is run.

    Attributes:
        cluster: its processes. stuck_after: seconds of the watchdog, None for the default of their number. stop_within: seconds from a stop
        signal to a forced stop. compile_cache: auto, none or a directory.
    """

    cluster: Settings = dataclasses.field(default_factory=Settings)
    stuck_after: float | None = None
    stop_within: float = 60.0
    compile_cache: str = "auto"

    def watched(self, processes: int) -> float:
        """Returns the seconds after which a command on so many processes counts as stuck, 0 for never."""
        return (STUCK_AFTER if processes > 1 else 0.0) if self.stuck_after is None else self.stuck_after


def taken(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Returns what the launch flags among `words` say, and the words without them.

    Raises: UsageError: a value that is missing or of another kind.
    """
    rest, found = [expand(word) for word in words], dict[str, str]()
    for name in launch_words.LAUNCH:
        given = [word for word in rest if word.partition("=")[0] == f"--{name}"]
        value, rest = take(rest, name)
        if given and not value:
            raise errors.UsageError(errors.describe("value missing", f"flag '--{name}' on the command line", f"--{name}=VALUE", "nothing"))
        if given:
            found[name] = value
    named: dict[str, Any] = {"method": found["cluster"]} if "cluster" in found else {}
    named |= {"coordinator": found["coordinator"]} if "coordinator" in found else {}
    named |= {"local_devices": _numbers("local_devices", found["local_devices"])} if "local_devices" in found else {}
    named |= {name: _whole(name, found[name], least) for name, least in _WHOLE.items() if name in found}
    ways: dict[str, Any] = {name: _seconds(name, found[name]) for name in ("stuck_after", "stop_within") if name in found}
    ways |= {"compile_cache": found["compile_cache"]} if "compile_cache" in found else {}
    return Options(Settings(**named), **ways), rest


def expand(word: str) -> str:
    """Returns a word with the two dashes that a flag written with one was meant to have."""
    return f"-{word}" if word.startswith("-") and not word.startswith("--") and len(word) > 2 and not word[1].isdigit() else word


def take(words: Sequence[str], flag: str) -> tuple[str, list[str]]:
    """Returns (the last value of `--flag=VALUE` or `--flag VALUE`, '' for none; the words without it).

    Raises: UsageError: the flag without a value.
    """
    value, rest, pending = "", [], False
    for word in words:
        head, equals, text = word.partition("=")
        if pending and not word.startswith("--"):
            value, pending = word, False
        elif pending:
            break
        elif head == f"--{flag}":
            value, pending = text, not equals
        else:
            rest.append(word)
    if pending:
        raise errors.UsageError(errors.describe("value missing", f"flag '--{flag}' on the command line", f"--{flag}=VALUE", "nothing"))
    return value, rest


def _whole(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text[:10]) <= 10**9:
        raise errors.UsageError(errors.describe("value", f"flag '--{name}' on the command line", f"a whole number from {least} on", reprlib.repr(text)))
    return int(text)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    numbers = tuple(_whole(name, part, 0) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise errors.UsageError(errors.describe("value", f"flag '--{name}' on the command line", "numbers that differ", reprlib.repr(text)))
    return numbers


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10**9:
        raise errors.UsageError(errors.describe("value", f"flag '--{name}' on the command line", "seconds from 0 on", reprlib.repr(text)))
    return value
