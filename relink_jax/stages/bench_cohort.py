"""`relink bench cohort`: pictures decoded per second against plain Pillow, and records read per second against the loose files.

Synthetic radiographs are written as PNG and JPEG and built into records, in a directory that goes away again. Both sides of a row read the
same pictures with as many threads, in turns in one process, from a warm page cache: what is compared is the software, not the disk, whose
cost per opened file is what records save on a shared file system. Before anything is timed the two sides are held against each other.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import PIL
from PIL import Image

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import examples, images, record_shards, records, schema
from relink_jax.runtime import progress, timing
from relink_jax.stages import cohort as cohort_stage

_PER_PATIENT = 1.5  # frontal images that a synthetic patient has at least, on average over many
_FEWEST = 20  # patients that a synthetic cohort may have
_QUALITY = 95
_SHARD_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: pictures per second of each side, and how often ours is faster: median, least and most of per-round ratios."""

    what: str
    peer: str
    ours_per_second: float
    peer_per_second: float
    ratio: float
    least: float
    most: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """All rows, and what they were measured on; `built_per_second` is one build of the records by one process, Pillow's decode included."""

    rows: list[Row]
    pictures: int
    side: int
    threads: int
    built_per_second: float

    def values(self) -> dict[str, Any]:
        """Returns the same, JSON-ready."""
        return dataclasses.asdict(self) | {"where": self.where()}

    def where(self) -> str:
        """Returns what the figures depend on, in words."""
        return f"{self.pictures:,} pictures of {self.side} x {self.side}, {self.threads} threads, {len(os.sched_getaffinity(0))} CPUs, Pillow {PIL.__version__}"


def measure(pictures: int, side: int, rounds: int, short_side: int = 0) -> Measured:
    """Returns the figures on `pictures` synthetic radiographs of `side` pixels; `short_side` as of `examples.Settings`, for one row more.

    Raises: UnsoundError: two sides of a row that read other pixels.
    """
    with tempfile.TemporaryDirectory() as made, progress.quiet():
        root = pathlib.Path(made)
        cohort = _cohort(root / "workdir", pictures, side)
        pictures_root = root / "workdir" / "phantom"
        source = record_shards.Source(root / "workdir" / "cohort", (pictures_root,))
        rows = list(range(min(pictures, len(cohort.image_key))))
        png = [pictures_root / cohort.image_path[row] for row in rows]
        jpeg = [_jpeg(root, row, path) for row, path in zip(rows, png, strict=True)]
        job = record_shards.Build(source, examples.Settings(shard_rows=_SHARD_ROWS), root / "records")
        started = time.perf_counter()
        record_shards.build(job, processes=1)
        built = len(cohort.image_key) / (time.perf_counter() - started)
        opened = records.Pictures(job.directory, cohort)
        pairs: list[tuple[str, str, Callable[[int], Any], Callable[[int], Any]]] = [
            ("decode PNG", "plain Pillow", lambda row: images.read_image(png[row]), lambda row: _plain(png[row])),
            ("decode JPEG", "plain Pillow", lambda row: images.read_image(jpeg[row]), lambda row: _plain(jpeg[row])),
            ("read records", "loose files", lambda row: opened.record(row)["image"], lambda row: png[row].read_bytes()),
            ("read and decode records", "loose files", opened.read, lambda row: images.read_image(png[row])),
        ]
        threads = min(8, len(os.sched_getaffinity(0)))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            done = [_row(pool, rows, rounds, *pair) for pair in pairs]
            if short_side:
                small = record_shards.Build(source, dataclasses.replace(job.settings, short_side=short_side), root / "small")
                record_shards.build(small, processes=1)
                resized = records.Pictures(small.directory, cohort)
                peer = "records of full size"
                done.append(_row(pool, rows, rounds, f"records of short side {short_side}", peer, resized.read, opened.read, same=False))
    return Measured(done, len(rows), side, threads, built)


def table(measured: Measured) -> str:
    """Returns the figures as text."""
    lines = [f"  {'what':<26} {'ours /s':>9} {'peer /s':>9} {'times faster':>13} {'least':>7} {'most':>7}  peer"]
    lines += [
        f"  {row.what:<26} {row.ours_per_second:>9.1f} {row.peer_per_second:>9.1f} {row.ratio:>13.2f} {row.least:>7.2f} {row.most:>7.2f}  {row.peer}"
        for row in measured.rows
    ]
    told = f"records built by one process, every picture decoded once on the way: {measured.built_per_second:.1f} /s"
    return "\n".join([f"pictures and records ({measured.where()}):", *lines, told])


def _cohort(workdir: pathlib.Path, pictures: int, side: int) -> schema.Cohort:
    """Returns a saved synthetic cohort of about so many pictures, made as the cohort stage makes it."""
    config = config_lib.RunConfig()
    config.cohort.phantom.n_patients = max(_FEWEST, round(pictures / _PER_PATIENT))
    config.cohort.phantom.image_size = side
    return cohort_stage.read(config, str(workdir))


def _jpeg(root: pathlib.Path, row: int, png: pathlib.Path) -> pathlib.Path:
    path = root / f"{row}.jpg"
    with Image.open(png) as picture:
        picture.save(path, quality=_QUALITY)
    return path


def _plain(path: pathlib.Path) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] as anybody would write it."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def _row(
    pool: concurrent.futures.ThreadPoolExecutor,
    rows: Sequence[int],
    rounds: int,
    what: str,
    peer: str,
    ours: Callable[[int], Any],
    theirs: Callable[[int], Any],
    *,
    same: bool = True,
) -> Row:
    if same and not all(np.array_equal(ours(row), theirs(row)) for row in rows[:4]):
        raise errors.UnsoundError(errors.describe(what, "bench cohort", f"what {peer} give", "something else"))
    own, other = timing.alternating([lambda: _through(pool, ours, rows), lambda: _through(pool, theirs, rows)], rounds)
    ratios = [slow / fast for fast, slow in zip(own, other, strict=True)]
    return Row(what, peer, len(rows) / median(own), len(rows) / median(other), median(ratios), min(ratios), max(ratios))


def _through(pool: concurrent.futures.ThreadPoolExecutor, read: Callable[[int], Any], rows: Sequence[int]) -> None:
    for _ in pool.map(read, rows):
        pass
