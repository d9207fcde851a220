"""Both sides of a counting step as arrays on the devices, and what a pass is asked for."""

import dataclasses
from typing import Any, NamedTuple


class Images(NamedTuple):
    """A batch of R images; places without one have study and number -1."""

    vectors: Any  # [R, width], see `product.encode`
    number: Any  # int32 [R]
    study: Any  # int32 [R]
    key: Any  # int32 [R]; a study with an equal key is no candidate
    text: Any  # int32 [R], text group of the image's own report
    codes: Any  # int32 [n_codes, R], -1 asks for nothing
    low: Any  # float32 [R], lower limit: the score of the own report, less the band of the precision
    high: Any  # float32 [R], upper limit, +inf without an image
    block: Any  # int32 [R // GROUP]


class Studies(NamedTuple):
    """Candidate studies in tiles [n_tiles, ..., T]; places without one have study -1."""

    vectors: Any  # [n_tiles, width, T]
    study: Any  # int32 [n_tiles, T]
    key: Any  # int32 [n_tiles, T]
    text: Any  # int32 [n_tiles, T]
    codes: Any  # int32 [n_tiles, n_codes, T], -2 for no code
    low: Any  # float32 [n_tiles, T], lower limit: the best score of the study's own images, less the band of the precision
    high: Any  # float32 [n_tiles, T], upper limit, +inf without an image
    best_image: Any  # int32 [n_tiles, T], number of that image, -2 without one
    block: Any  # int32 [n_tiles, T // GROUP]
    first: Any  # int32 [n_tiles], number of the tile's first place


class PerImage(NamedTuple):
    """What a step finds for its images."""

    counts: Any  # int32 [J, n_answers + 1, R], see `Wanted.image_answers`
    top_score: Any  # float32 [R, k]
    top_place: Any  # int32 [R, k], place of the study among all tiles
    settled: Any  # bool [R], whether the top list is exact


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a pass computes, and in which shape; part of the compiled program.

    Attributes:
        codes: label codes per record, each a further stratum.
        near: whether scores within `tally.DELTA` of the limits are counted.
        studies: whether the direction from report to image is counted.
        k: length of the top lists, 0 for none. kept: groups kept of each tile; k or more make every list exact.
        within: lists hold counted studies inside the limits alone.
        precision: of the product, see `product`.
        height: images per product, a divisor of a step's images on one device; 0 for all of them.
        blocks: jackknife blocks J, 1 for none. spans, image_spans: largest number of them in one tile, and in one batch per device.
        split: what the devices share, one of `layout.SPLITS`.
        kernel: whether tiles are counted by a kernel, see `kernels`.
    """

    codes: int = 1
    near: bool = True
    studies: bool = True
    k: int = 10
    kept: int = 10
    within: bool = False
    precision: str = "float32"
    height: int = 0
    blocks: int = 1
    spans: int = 1
    image_spans: int = 1
    split: str = "images"
    kernel: bool = False

    @property
    def banded(self) -> bool:
        """Whether the two limits of a query differ."""
        return self.precision != "float32"

    @property
    def image_answers(self) -> int:
        """Conditions counted per image: above and reached in each stratum, then, if asked, above and reached of the wider limits."""
        return 2 * (1 + self.codes) + 2 * self.near

    @property
    def study_answers(self) -> int:
        """Conditions counted per study: above and reached in each stratum."""
        return 2 * (1 + self.codes)
