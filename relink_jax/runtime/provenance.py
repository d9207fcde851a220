"""What a result must carry to be traced: the commit and the versions of the packages that made it, devices."""

import importlib.metadata
import pathlib
import platform
import subprocess
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


def commit() -> str:
    """Returns the commit of the checkout this package runs from, with '-dirty' after changes; 'not a checkout' when installed elsewhere."""
    import relink_jax

    root = pathlib.Path(relink_jax.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "not a checkout"
    try:
        described = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() or "unknown"
