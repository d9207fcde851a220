"""Keeps compiled programs between commands of a run, so that one that goes on does not compile again.

Design note: a shared cache would be a place to load other people's code from, so by default it lies in the workdir; what XLA compiles for one
CPU need not run on another, so the CPU has none by default. Whether there is an accelerator is read from the machine: asking jax would take it.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import Mapping

DIRECTORY = "xla_cache"  # of the workdir
SMALL = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}  # of what is kept: everything


def directory(choice: str, workdir: str, environment: Mapping[str, str], accelerator: bool | None = None) -> pathlib.Path | None:
    """Returns where compiled programs are kept, None for nowhere.

    Args:
        choice: auto, none or a directory; auto is the workdir's on a GPU or TPU. workdir: '' where the command has none.
        accelerator: whether this machine has one that jax can use; None looks.
    """
    if choice == "none" or (choice == "auto" and not workdir):
        return None
    if choice != "auto":
        return pathlib.Path(os.path.expanduser(choice))
    if environment.get("JAX_PLATFORMS", "").startswith("cpu") or environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return None
    return pathlib.Path(os.path.expanduser(workdir)) / DIRECTORY if (_accelerated() if accelerator is None else accelerator) else None


def turn_on(place: pathlib.Path) -> None:
    """Makes jax keep every program that it compiles in `place`, which it makes with the first one."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(place))
    for name, value in SMALL.items():
        jax.config.update(name, value)


def close_off(place: pathlib.Path) -> None:
    """Takes the cache from everyone but its owner, as jax made it for all; nothing where there is none yet."""
    if place.is_dir():
        os.chmod(place, 0o700)


def _accelerated() -> bool:
    """Returns whether this machine has an accelerator and a plugin of jax for one."""
    devices = pathlib.Path("/dev")
    nodes = [*devices.glob("nvidia[0-9]*"), *devices.glob("kfd"), *devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")]
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(nodes) and (bool(plugins) or importlib.util.find_spec("libtpu") is not None)
