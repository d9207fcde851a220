"""How a counting pass lies on the devices: which side they share, in what pieces, and what that takes of their memory. Needs no jax."""

import dataclasses
import math

from relink_jax import errors

SPLITS = IMAGES, STUDIES, RING = ("images", "studies", "ring")
AUTO = "auto"
KERNELS = ALWAYS, NEVER = ("always", "never")
_FIELDS = 7  # 4-byte columns of a study beside its vector and codes: number, key, text, two limits, best image, share of the groups' blocks
_SHARE = 0.8  # of a device's memory that is planned for
_WIDE, _NARROW, _SHORT = 64, 16, 16  # groups of short lists, of others, and how long a short one is
_CPU, _ACCELERATOR = (1024, 256, 8832), (4096, 0, 32768)


def default_shape(platform: str) -> tuple[int, int, int]:
    """Returns (images per device and step, images per product or 0 for all of them, studies per tile) for a jax platform.

    On the CPU a tile of 9 MB stays in the last cache, and every tile that a step fetches from memory serves several products. On
    accelerators a tile of 0.5 GB need only be small against memory.
    """
    return _CPU if platform == "cpu" else _ACCELERATOR


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape and sharing of a pass; it decides speed and memory, never a number.

    Attributes:
        split: what the devices share, one of `SPLITS`, see `sweep`; 'auto' asks `chosen`.
        query_block: images per step over all devices; tile: studies per tile; both are rounded, 0 chooses for the device.
        panel: studies on the devices at a time, the rest waits on the host; 0 for all of them, or as many as `chosen` finds room for.
        memory: bytes of one device to plan for; 0 asks the device, and one that does not tell has no limit.
        height: images per product, of a step's images on one device; 0 chooses for the device.
        kernel: whether tiles are counted by a kernel that never writes their scores, one of `KERNELS`; 'auto' where it was measured to be faster.
    """

    split: str = AUTO
    query_block: int = 0
    tile: int = 0
    panel: int = 0
    memory: int = 0
    height: int = 0
    kernel: str = AUTO

    def __post_init__(self) -> None:
        for what, given, known in (("split", self.split, SPLITS), ("kernel", self.kernel, KERNELS)):
            if given not in (AUTO, *known):
                expected = f"one of {', '.join((AUTO, *known))}"
                raise errors.UsageError(errors.describe(f"unknown {what}", "counting pass", expected, repr(given)) + errors.suggest(given, known))


DEFAULT = Layout()


@dataclasses.dataclass(frozen=True)
class Shape:
    """What decides the bits of a pass's scores, the same on any number of devices.

    Attributes:
        split: what the devices share. rows: images per device and step, or per step where all devices see them. height: images per product.
        tile: studies per tile. tiles: tiles per panel. kernel: whether a kernel counts.
    """

    split: str
    rows: int
    height: int
    tile: int
    tiles: int
    kernel: bool

    def layout(self, devices: int, studies: int) -> Layout:
        """Returns the layout that a pass of this shape has on so many devices."""
        many, panel = (1 if self.split == STUDIES else devices), self.tile * self.tiles
        return Layout(self.split, self.rows * many, self.tile, panel if panel < studies else 0, 0, self.height, ALWAYS if self.kernel else NEVER)


def group_size(k: int) -> int:
    """Returns how many neighbours a group has that is kept for a list of length k, see `toplists`; a multiple of `packed.GROUP`."""
    return _WIDE if k <= _SHORT else _NARROW


def kept_groups(k: int, n_tiles: int) -> int:
    """Returns how many groups of each tile are kept for a list of length k: its share and a margin that chance seldom exceeds."""
    share = k / n_tiles
    return min(k, math.ceil(share + 3 * math.sqrt(share)) + 1)


@dataclasses.dataclass(frozen=True)
class Size:
    """What a pass is made of: studies S, bytes of one encoded row, label codes, jackknife blocks J, list length k, and the devices."""

    studies: int
    row_bytes: int
    codes: int = 1
    blocks: int = 1
    k: int = 10
    devices: int = 1
    platform: str = "cpu"


@dataclasses.dataclass(frozen=True)
class Taken:
    """Bytes of one device: candidates with their counts, one batch of images with its results and the groups kept for its lists, and tiles of scores."""

    candidates: int
    batch: int
    scores: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.candidates + self.batch + self.scores


def taken(size: Size, layout: Layout) -> Taken:
    """Returns what one device holds under a layout whose split is not 'auto'.

    A panel counts twice when there is more than one: the next is placed while one is counted.
    """
    rows, height, columns = default_shape(size.platform)
    here = min(layout.panel or size.studies, size.studies) * (2 if 0 < layout.panel < size.studies else 1)
    held = here if layout.split == IMAGES else -(-here // size.devices)
    answers = 2 * (1 + size.codes) + 1
    per_study = size.row_bytes + 4 * (_FIELDS + size.codes) + 4 * answers * size.blocks
    per_step = layout.query_block or rows * (1 if layout.split == STUDIES else size.devices)
    images = per_step if layout.split == STUDIES else -(-per_step // size.devices)
    tile = min(layout.tile or columns, held)
    per_image = size.row_bytes + 4 * (answers + 2) * size.blocks + 8 * size.k * (size.devices if layout.split == STUDIES else 1)
    n_tiles = -(-held // tile)
    groups = 4 * images * n_tiles * kept_groups(size.k, n_tiles) * (group_size(size.k) + 2)
    return Taken(held * per_study, 3 * images * per_image + 2 * groups, 2 * min(layout.height or height or images, images) * tile * 4)


def fits(size: Size, shape: Shape, memory: int) -> bool:
    """Returns whether devices of `memory` bytes, 0 for no limit, hold a pass of a shape that was chosen for others."""
    return not memory or taken(size, shape.layout(size.devices, size.studies)).total <= int(_SHARE * memory)


def chosen(size: Size, layout: Layout, memory: int) -> Layout:
    """Returns the layout with its split and panel decided for devices of `memory` bytes, 0 for no limit.

    Every report on every device where they fit, since nothing is sent then. Otherwise the devices share the reports: as 'studies' while
    the lists that are gathered stay shorter than a device's own reports, else as 'ring'. What still does not fit comes in panels.
    A split or a panel that is given stays.

    Raises: UsageError: not even the smallest panel fits.
    """
    room = int(_SHARE * memory)
    shared = STUDIES if size.k * size.devices**2 <= size.studies else RING
    splits = (layout.split,) if layout.split != AUTO else (IMAGES,) if size.devices == 1 else (IMAGES, shared)
    for split in splits:
        found = dataclasses.replace(layout, split=split)
        if not memory or taken(size, found).total <= room:
            return found
    found = dataclasses.replace(layout, split=splits[-1])
    if layout.panel:
        raise errors.UsageError(errors.describe("panel", "counting pass", f"at most {room:,} bytes per device", f"{taken(size, found).total:,} bytes"))
    unit = (layout.tile or default_shape(size.platform)[2]) * (1 if found.split == IMAGES else size.devices)
    panels = [dataclasses.replace(found, panel=unit * many) for many in range(1, -(-size.studies // unit))]
    fitting = [one for one in panels if taken(size, one).total <= room]
    if not fitting:
        least = min((taken(size, one).total for one in panels), default=taken(size, found).total)
        raise errors.UsageError(errors.describe("device memory", "counting pass", f"at least {int(least / _SHARE):,} bytes, or a smaller tile", f"{memory:,}"))
    return fitting[-1]
