"""The only constructor of device meshes.

Design note: axis types are spelled out because jax 0.10 changed the default of a bare `make_mesh`; every room takes the
mesh as an argument and none builds its own.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from relink_jax import errors

DATA = "data"


def make_mesh(n_devices: int | None = None) -> Mesh:
    """Returns a 1-D mesh with axis 'data' over the first `n_devices` devices of all processes (default: all).

    Raises: UsageError: more devices asked for than there are.
    """
    devices = jax.devices()
    count = len(devices) if n_devices is None else n_devices
    if not 1 <= count <= len(devices):
        raise errors.UsageError(errors.describe("device count", "mesh", f"1 to {len(devices)} devices", str(count)))
    return Mesh(np.asarray(devices[:count]), (DATA,), axis_types=(AxisType.Auto,))


def rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits axis 0 over the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def padded(n: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `n`, and at least `multiple`."""
    return max(1, -(-n // multiple)) * multiple
