"""What is left of this machine: bytes of memory that this process may still take, and of disk under a directory."""

import pathlib
import shutil
from collections.abc import Iterable

_PROC, _GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
_LIMITS = (  # file of the limit, of what is used, and the name in memory.stat of what the kernel gives back by itself: cgroup v2, then v1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory(proc: pathlib.Path = _PROC, groups: pathlib.Path = _GROUPS) -> int:
    """Returns the bytes of host memory that this process may still take: the system's, or less where its control group has a limit.

    0 where the system does not tell. Schedulers and container engines set such limits, and end the process that crosses one.
    """
    left = [_number(_words(proc / "meminfo"), "MemAvailable:") * 1024]
    for line in _text(proc / "self" / "cgroup").splitlines():
        kinds, _, path = line.partition(":")[2].partition(":")
        if kinds in ("", "memory"):
            own = pathlib.PurePosixPath(path.lstrip("/"))
            left += [_left(groups / kinds / place) for place in (own, *own.parents)]
    told = [one for one in left if one]
    return min(told, default=0)


def disk(path: str | pathlib.Path) -> int:
    """Returns the free bytes of the file system that `path` lies on, or will: that of its nearest parent that exists; 0 for no path."""
    if not str(path):
        return 0
    place = pathlib.Path(path).expanduser().absolute()
    return shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free


def held(paths: Iterable[pathlib.Path]) -> int:
    """Returns the bytes of the files under directories, 0 for one that is not there."""
    return sum(file.lstat().st_size for path in paths for file in path.rglob("*") if file.is_file())


def _left(group: pathlib.Path) -> int:
    """Returns what a control group may still take, 0 for no limit."""
    for limit, used, given_back in _LIMITS:
        allowed = _text(group / limit).strip()
        if allowed.isdigit() and int(allowed) < 2**60:  # v1 says 2**63 less a page for no limit
            taken = int(_text(group / used).strip() or 0) - _number(_words(group / "memory.stat"), given_back)
            return max(1, int(allowed) - max(0, taken))
    return 0


def _number(words: list[str], name: str) -> int:
    return int(words[words.index(name) + 1]) if name in words[:-1] else 0


def _words(path: pathlib.Path) -> list[str]:
    return _text(path).split()


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
