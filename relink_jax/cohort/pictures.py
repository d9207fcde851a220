"""The images of a cohort, by row, from the files of its archive, with what was decided about each."""

import collections
import threading
from typing import Any

import numpy as np

from relink_jax.cohort import images
from relink_jax.cohort.schema import called

_PLAIN = (".png", ".jpg", ".jpeg")


class Files:
    """Reads the image files of a cohort, from any number of threads.

    Args:
        cohort: a `schema.Cohort`.
        dicom, refuse_burned_in: as in `images.read_image`.
    """

    def __init__(self, cohort: Any, *, dicom: str = "standard", refuse_burned_in: bool = False) -> None:
        self._cohort, self._dicom, self._refuse = cohort, dicom, refuse_burned_in
        self._decided: dict[int, tuple[str, ...]] = {}
        self._alike: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def read(self, row: int) -> np.ndarray:
        """Returns image `row` as float32 [H, W] in [0, 1].

        Raises: DataError: a path out of the archive's root, or what `images.read_image` raises; names the row and no path.
        """
        decisions: collections.Counter[str] = collections.Counter()
        image = images.read_image(self._cohort.image_file(row), called(row), dicom=self._dicom, decisions=decisions, refuse_burned_in=self._refuse)
        if decisions:
            with self._lock:
                told = tuple(sorted(decisions))
                self._decided[row] = self._alike.setdefault(told, told)
        return image

    @property
    def decisions(self) -> collections.Counter[str]:
        """How many of the images read so far each decision was made about; an image that is read twice counts once."""
        with self._lock:
            return collections.Counter(name for told in self._decided.values() for name in told)

    def of(self, rows: np.ndarray) -> collections.Counter[str]:
        """Returns the same for some rows, each of which counts as often as it is named."""
        with self._lock:
            return collections.Counter(name for row in rows.tolist() for name in self._decided.get(row, ()))

    @property
    def identity(self) -> dict[str, str]:
        """What features of these images depend on beside the files: the DICOM mode, where a file is not named as a PNG or JPEG."""
        plain = all(path.lower().endswith(_PLAIN) for path in self._cohort.image_path)
        return {} if plain else {"dicom": self._dicom}
