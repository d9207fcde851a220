"""The only constructor of device meshes.

Design note: axis types are spelled out because jax 0.10 changed the default of a bare `make_mesh`; every room takes the
mesh as an argument and none builds its own. Work that one of several processes does by itself is done inside `alone`, where the
same calls give meshes of its own devices and wait for nobody.
"""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from relink_jax import errors
from relink_jax.runtime import logs

DATA = "data"
_alone = [0]


def share_cpu() -> None:
    """Makes the CPU two devices where this process may use two CPUs or more, unless devices were counted already or XLA_FLAGS count them.

    Some steps of a counting pass run on one thread of a device; two devices hide that from each other. Accelerators are not touched.
    """
    if len(os.sched_getaffinity(0)) > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # devices were counted already
            jax.config.update("jax_num_cpu_devices", 2)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works without the others: `processes` is 1, and `make_mesh` takes its own devices."""
    _alone[0] += 1
    try:
        yield
    finally:
        _alone[0] -= 1


def processes() -> int:
    """Returns how many processes work together here: all of the command, 1 inside `alone`."""
    return 1 if _alone[0] else jax.process_count()


def local_mesh() -> Mesh:
    """Returns a mesh of this process's own devices."""
    with alone():
        return make_mesh()


def make_mesh(n_devices: int | None = None) -> Mesh:
    """Returns a 1-D mesh with axis 'data' over the first `n_devices` devices (default: all) of all processes, inside `alone` of this one.

    Raises: UsageError: more devices asked for than there are.
    """
    devices = jax.local_devices() if _alone[0] else jax.devices()
    logs.devices(devices[0].device_kind, jax.local_device_count(), jax.device_count())
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
    """Returns what process 0 passes, on every process, once all have come here; the value itself inside `alone`."""
    if processes() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def bytes_from_first(content: bytes) -> bytes:
    """Returns the bytes of process 0, of one length everywhere; the content itself with one process or inside `alone`."""
    if processes() == 1:
        return content
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8))).tobytes()


def gathered(value: int) -> list[int]:
    """Returns what every process passes, in the order of processes, once all have come here; the value alone inside `alone`."""
    if processes() == 1:
        return [value]
    from jax.experimental import multihost_utils

    return [int(one) for one in np.asarray(multihost_utils.process_allgather(np.int32(value))).ravel()]


def padded(n: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `n`, and at least `multiple`."""
    return max(1, -(-n // multiple)) * multiple
