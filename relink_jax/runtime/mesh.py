"""The only constructor of device meshes.

Design note: axis types are spelled out because jax 0.10 changed the default of a bare `make_mesh`; every room takes the
mesh as an argument and none builds its own.
"""

import contextlib
import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from relink_jax import errors

DATA = "data"


def share_cpu() -> None:
    """Makes the CPU two devices where this process may use two CPUs or more, unless devices were counted already or XLA_FLAGS count them.

    Some steps of a counting pass run on one thread of a device; two devices hide that from each other. Accelerators are not touched.
    """
    if len(os.sched_getaffinity(0)) > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # devices were counted already
            jax.config.update("jax_num_cpu_devices", 2)


def make_mesh(n_devices: int | None = None) -> Mesh:
    """Returns a 1-D mesh with axis 'data' over the first `n_devices` devices of all processes (default: all).

    Raises: UsageError: more devices asked for than there are.
    """
    devices = jax.devices()
    count = len(devices) if n_devices is None else n_devices
    if not 1 <= count <= len(devices):
        raise errors.UsageError(errors.describe("device count", "mesh", f"1 to {len(devices)} devices", str(count)))
    return Mesh(np.asarray(devices[:count]), (DATA,), axis_types=(AxisType.Auto,))


def split(mesh: Mesh, axis: int) -> NamedSharding:
    """Returns the sharding that splits one axis over the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits axis 0 over the mesh."""
    return split(mesh, 0)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def memory(mesh: Mesh) -> int:
    """Returns the bytes that one device of a mesh may use, 0 where it does not tell, as the CPU does not."""
    return int((mesh.local_devices[0].memory_stats() or {}).get("bytes_limit", 0))


def put(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """Returns a host array as a global device array; every process passes the same value."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def to_host(array: jax.Array) -> np.ndarray:
    """Returns a whole array as NumPy on every process, gathering shards of other processes when there are any."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def agreed(value: int) -> int:
    """Returns what process 0 passes, on every process, once all have come here."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def bytes_from_first(content: bytes) -> bytes:
    """Returns the bytes of process 0, of one length everywhere; the content itself with one process."""
    if jax.process_count() == 1:
        return content
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8))).tobytes()


def padded(n: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `n`, and at least `multiple`."""
    return max(1, -(-n // multiple)) * multiple
