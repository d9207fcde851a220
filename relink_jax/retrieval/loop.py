"""The loop of a counting pass: every panel of candidates, every batch of images, results back on the host and in the order of numbers.

Integers of panels add up. Lists of panels merge in order of place; a list whose certificate fails (`toplists`) is made again from tiles
that keep as many groups as exactness can need.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from relink_jax import errors
from relink_jax.retrieval import engine, probe, resume, sides, sweep, toplists
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.limits import Limits
from relink_jax.runtime import progress

T = TypeVar("T")
LONG = 2e12  # FLOP of a pass worth keeping parts of and probing the device for, about ten seconds on two CPUs
_BRIEF = 40  # such a share of it is not worth a file


def worth(records: Records, kept: T, brief: bool = False) -> T | None:
    """Returns where parts are kept, None where a pass over all images and studies of `records` is short.

    Args: brief: whether a short pass is worth it too, unless it is very short; for results of passes that many others follow.
    """
    flop = 2 * len(records.images) * len(records.study_text) * records.texts.shape[1]
    return kept if flop >= (LONG / _BRIEF if brief else LONG) else None


def per_part(work: engine.Engine) -> int:
    """Returns how many batches make a part: about `resume.PARTS` parts of a panel, or fewer that are each long."""
    n_batches = len(work.images.number)
    return -(-n_batches // max(1, min(resume.PARTS, int(work.flop / work.panels / max(LONG, 1)), n_batches)))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a pass found, in the order of numbers: counts int32 per image [J, answers, Q] and per study [J, answers, S], see `tally`;
    top lists of the images, study numbers int32 and scores float32 [Q, k]."""

    per_image: np.ndarray
    per_study: np.ndarray
    top_id: np.ndarray
    top_score: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Panel:
    """What one panel or several gave: counts [J, answers, Q] of the images, their lists [Q, k] by place, counts [J, tiles, answers, T] of studies."""

    per_image: np.ndarray
    score: np.ndarray
    place: np.ndarray
    per_study: np.ndarray


def run(work: engine.Engine, wanted: sides.Wanted, limits: Limits, what: str, kept: resume.Place | None = None) -> Found:
    """Returns what a pass finds; shapes, split and precision of `wanted` are filled in here.

    Args:
        work: as `resume.arranged` makes it, where parts are kept. limits: of both sides. what: words for the progress bar.
        kept: where finished parts are kept, and taken up when they are there; None keeps none.
    Raises: StoreError: parts of another pass there. StoppedError: after a part, see `stopping.check`.
    """
    wanted = work.shaped(wanted)
    whole = functools.reduce(_merged, _panels(work, wanted, limits, what, kept))
    ids = np.where(whole.place >= 0, work.studies.number.ravel()[np.maximum(whole.place, 0)], -1).astype(np.int32)
    if not wanted.studies:
        return Found(whole.per_image, np.zeros((wanted.blocks, wanted.study_answers + 1, 0), np.int32), ids, whole.score)
    by_place = np.moveaxis(whole.per_study, 1, 2).reshape(wanted.blocks, wanted.study_answers + 1, -1)
    return Found(whole.per_image, work.studies.back(by_place, len(work.records.study_text)), ids, whole.score)


def check_seen(found: np.ndarray, expected: np.ndarray, side: str) -> None:
    """Raises `UnsoundError` unless each query's true pair was met `expected` times inside its limits: in float32, with the same bits.

    A threshold that differs from its own tile by a rounding error would turn every duplicate of the right report into a mistake.
    """
    wrong = int((found != expected).sum())
    if wrong:
        raise errors.UnsoundError(
            errors.describe("scores changed between passes", "counting pass", "bit-identical scores of the true pairs", f"others for {wrong:,} {side}")
        )


def _panels(work: engine.Engine, wanted: sides.Wanted, limits: Limits, what: str, kept: resume.Place | None) -> Iterator[_Panel]:
    """Yields what each panel gives."""
    records = work.records
    peak = probe.bare(work.mesh, records.texts.shape[1], len(records.study_text), work.precision) if work.flop >= LONG else 0.0
    identity = {} if kept is None else resume.identity_of(work, wanted, kept)
    for panel, columns in enumerate(work.each_panel(limits)):
        words = what if work.panels == 1 else f"{what} {panel + 1}/{work.panels}"
        parts = None
        if kept is not None:
            parts = resume.Parts(kept / f"panel-{panel:03d}", identity | {"panel": [panel, work.panels]}, work, wanted, limits, what)
        yield _counted(work, columns, wanted, limits, parts, words, peak)


def _counted(work: engine.Engine, columns: sides.Studies, wanted: sides.Wanted, limits: Limits, parts: resume.Parts | None, what: str, peak: float) -> _Panel:
    """Returns what one panel gives: batch after batch, part after part."""
    number, total = work.images.number.ravel(), work.images.number.size
    done, sums, covered = ([], None, 0) if parts is None else parts.finished()
    state = work.empty(wanted, sums)
    step = total if parts is None else per_part(work) * work.images.width
    before = int((number[:covered] >= 0).sum())
    flop = work.flop / work.panels / total
    with progress.bar(len(work.records.images), what, "images", first=before) as shown:
        started, first = time.monotonic(), before
        for start in range(covered, total, step):
            stop = min(start + step, total)
            found: dict[str, list[np.ndarray]] = {name: [] for name in sides.PerImage._fields}
            for rows, batch, after in work.steps(columns, state, limits, wanted, (start, stop)):
                for name, array in zip(sides.PerImage._fields, batch, strict=True):
                    found[name].append(array)
                state = after
                shown.update(int((rows >= 0).sum()))
                if peak:
                    rate = (shown.n - first) * flop / (time.monotonic() - started)
                    shown.set_postfix_str(f"{100 * rate / peak:.0f}% of the bare product", refresh=False)
            done.append({name: np.concatenate(arrays)[: stop - start] for name, arrays in found.items()})
            if parts is not None:
                parts.write(len(done) - 1, done[-1], start, stop, work.counts_of(state) if wanted.studies else None)
    counts, score, place, settled = (_by_number(work, [part[name] for part in done]) for name in sides.PerImage._fields)
    left = np.flatnonzero(~settled)
    if len(left):
        _settle(work, columns, limits, wanted, left, score, place)
    return _Panel(np.moveaxis(counts, 0, -1), score, place, work.counts_of(state))


def _settle(work: engine.Engine, columns: sides.Studies, limits: Limits, wanted: sides.Wanted, left: np.ndarray, score: np.ndarray, place: np.ndarray) -> None:
    """Fills in the top lists of images `left` from tiles that keep as many groups as exactness can need."""
    exact = dataclasses.replace(wanted, kept=wanted.k, studies=False, near=False, kernel=False)
    step, state, width = sweep.program(work.mesh, exact), work.empty(exact), work.images.width
    for first in range(0, len(left), width):
        chosen = left[first : first + width]
        number = np.pad(chosen, (0, width - len(chosen)), constant_values=-1).astype(np.int32)
        found, state = step(work.batch(number, np.zeros_like(work.images.block[0]), limits), columns, state)
        score[chosen], place[chosen] = (np.asarray(array)[: len(chosen)] for array in (found.top_score, found.top_place))


def _merged(left: _Panel, right: _Panel) -> _Panel:
    """Returns what two panels give together; all places of `right` come after those of `left`."""
    lists = toplists.joined((left.score, left.place), (right.score, right.place))
    return _Panel(left.per_image + right.per_image, *lists, np.concatenate([left.per_study, right.per_study], axis=1))


def _by_number(work: engine.Engine, parts: list[np.ndarray]) -> np.ndarray:
    """Returns rows of the batches, [n_places, ...] in pieces, in the order of image numbers."""
    placed = np.moveaxis(np.concatenate(parts), 0, -1)
    return np.moveaxis(work.images.back(placed, len(work.records.images)), -1, 0).copy()
