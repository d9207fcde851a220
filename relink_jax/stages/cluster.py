"""The cluster stage: what a command sees of its cluster, tried and not believed.

Every device adds its number to one sum, and with a workdir every process writes a file there and counts those of the others, so that a
directory that only looks shared is found before any work.
"""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import time

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import cluster, plan
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files

SEEN_WITHIN = 60.0  # seconds that a shared file system has to show a new file everywhere
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class View:
    """What was found.

    Attributes:
        place: where this process stands. devices: their number on each process, in order. kinds: their kinds. memory: bytes that each process's
        devices may use, 0 where they do not tell. total: the sum over all devices. shared: processes whose file every process saw; None without a workdir.
    """

    place: cluster.Place
    devices: tuple[int, ...]
    kinds: tuple[str, ...]
    memory: tuple[int, ...]
    total: int
    shared: int | None


def run(config: config_lib.RunConfig, workdir: str) -> View:
    """Looks at the cluster, and tries its devices and, where one is named, the workdir; leaves no file behind.

    Raises: UnsoundError: a sum over the devices that is wrong; StoreError: a workdir that a process cannot write, or that not all see.
    """
    del config
    mesh = meshes.make_mesh()
    every = jax.devices()
    devices = tuple(sum(device.process_index == process for device in every) for process in range(jax.process_count()))
    numbers = meshes.put(np.arange(1, len(every) + 1, dtype=np.int32), meshes.rows(mesh))
    total = int(meshes.to_host(jax.jit(jnp.sum, out_shardings=meshes.replicated(mesh))(numbers)))
    if total != len(every) * (len(every) + 1) // 2:
        raise errors.UnsoundError(errors.describe("sum over devices", "the cluster", str(len(every) * (len(every) + 1) // 2), str(total)))
    memory = tuple(_MIB * one for one in _from_all(meshes.memory(mesh) // _MIB))
    shared = _shared(pathlib.Path(os.path.expanduser(workdir))) if workdir else None
    return View(cluster.place(), devices, tuple(sorted({device.device_kind for device in every})), memory, total, shared)


def _from_all(value: int) -> list[int]:
    """Returns the value of every process, in order, on every process."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    return [int(one) for one in np.asarray(multihost_utils.process_allgather(np.int32(value)))]


def _shared(root: pathlib.Path) -> int:
    """Returns the number of processes whose file in `root` every process saw; `StoreError` unless it is all of them."""
    made, processes = not root.exists(), jax.process_count()
    token = meshes.bytes_from_first(secrets.token_bytes(6)).hex()
    mine = root / f".cluster-{token}-{jax.process_index():05d}.tmp"
    failed = ""
    try:
        files.write_text(mine, token)
    except errors.StoreError as error:
        failed = str(error)
    broken = sum(_from_all(int(bool(failed))))
    seen = _from_all(0 if broken else _seen(root, token, processes))  # all have looked before any file goes
    with contextlib.suppress(OSError):
        mine.unlink()
    _from_all(0)
    if made and jax.process_index() == 0:
        with contextlib.suppress(OSError):  # somebody else uses it by now
            root.rmdir()
    if broken:
        found = failed.rpartition("found ")[2] or f"{broken} that cannot"
        raise errors.StoreError(errors.describe("workdir not written", "--workdir", f"a directory that all {processes} processes can write", found))
    if min(seen) < processes:
        told = f"one where {sum(one < processes for one in seen)} of them saw at most {min(seen)} files"
        raise errors.StoreError(
            errors.describe("workdir not shared", "--workdir", f"one directory where all {processes} processes see each other's files", told)
        )
    return processes


def _seen(root: pathlib.Path, token: str, processes: int) -> int:
    """Returns how many processes' files there are, once they are all there or time is up."""
    deadline = time.monotonic() + SEEN_WITHIN
    while True:
        found = len([name for name in os.listdir(root) if name.startswith(f".cluster-{token}-")])
        if found >= processes or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def describe(view: View) -> str:
    """Returns the view as a table."""
    alike = len(set(view.devices)) == 1
    each = f"{view.devices[0]} on each process" if alike else f"{', '.join(map(str, view.devices))} on processes 0 to {len(view.devices) - 1}"
    memory = sorted({plan.human(one, "B") if one else "not told" for one in view.memory})
    lines = [
        ("cluster", f"{view.place.method}: {view.place.why}"),
        ("processes", str(len(view.devices))),
        ("devices", f"{sum(view.devices)} of kind {' and '.join(view.kinds)}; {each}"),
        ("memory", f"{' or '.join(memory)} per device"),
        ("sum", f"{view.total} over all devices, as expected"),
    ]
    if view.shared is not None:
        lines.append(("workdir", f"written and seen by all {view.shared} processes"))
    return "\n".join(f"  {name:<10} {text}" for name, text in lines)
