"""What a result must carry to be traced: versions of the packages that made it, devices."""

import importlib.metadata
import platform
from typing import Any

_PACKAGES = ("relink_jax", "jax", "jaxlib", "numpy", "flax", "optax")


def versions() -> dict[str, Any]:
    """Returns {'package_versions': {...}, 'devices': {...}} of this process; a package run from a checkout has its own version."""
    import jax

    import relink_jax

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = relink_jax.__version__ if name == "relink_jax" else "not installed"
    device = jax.devices()[0]
    return {"package_versions": found, "devices": {"kind": device.device_kind, "count": jax.device_count(), "processes": jax.process_count()}}
