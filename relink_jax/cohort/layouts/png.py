"""Writes one grey picture of a synthetic archive as PNG.

Design note: without the flush to disk that `store.files` does for each artifact; the tables are written last and say
that its pictures are all there.
"""

import pathlib

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.store import files


def save(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes uint8 [H, W] to `path`, 0600, with its missing directories, 0700. Raises: StoreError: the place is not writable."""
    files.make_dir(path.parent)
    try:
        path.touch(mode=0o600)
        Image.fromarray(pixels).save(path, "PNG", compress_level=1)
    except OSError as error:
        raise errors.StoreError(
            errors.describe("write failed", "synthetic images", "a writable directory with free space", error.strerror or "an error")
        ) from error
