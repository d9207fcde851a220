"""What `relink bench` holds against brute force in float64 before it times anything: a fast pass that counts wrongly is worth nothing.

The pass that will be timed runs once, and a sample of its queries is counted again against all candidates. Integers of float32 may differ
by candidates within rounding of the threshold, those of a faster precision's pass by candidates inside twice its band, and those that it
comes to after settling not at all.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from relink_jax import errors
from relink_jax.retrieval import exact, faster, layout, limits, loop, probe, product, recheck
from relink_jax.retrieval.counted import OTHER_PATIENT, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.store.rows import blocks

SAMPLE = 16  # queries of each direction that are counted again
_FLOAT64 = 1e-12  # what two orders of a float64 sum of unit rows can differ by


@dataclasses.dataclass(frozen=True)
class Settled:
    """How a faster precision came to exact integers: queries whose integers equal those of float32, all of them, and what was settled."""

    equal: int
    queries: int
    settling: Mapping[str, float]


def around(records: Records, precision: str) -> limits.Limits | None:
    """Returns the limits that a pass at a precision faster than float32 counts between, see `faster`; None for float32."""
    return None if precision == product.FLOAT32 else faster.banded(records, precision)[2]


def check(placed: probe.Placed, sample: int = SAMPLE) -> int:
    """Runs a placed pass once, and returns how many queries of it were counted again in float64.

    Integers by stratum and jackknife block, of images and, where they were counted, of studies, and the top lists of the images.

    Raises: UnsoundError: one of them is not what it can be.
    """
    records = placed.work.records
    found = loop.run(placed.work, placed.wanted, placed.around, "check")
    rows = np.unique(np.linspace(0, len(records.images) - 1, sample).astype(np.int64))
    study = records.image_study[rows]
    scores = _scores(records.images[rows], records, "texts")[:, records.study_text]
    truth = scores[np.arange(len(rows)), study]
    margin = _margin(placed.around.image_low[rows], placed.around.image_high[rows], placed.wanted.banded)
    everyone = np.arange(len(records.study_text))
    _compare(records, (study, everyone), scores, (truth, margin), found.per_image[:, :-1][:, :, rows], "images")
    if placed.wanted.k:
        _check_lists(scores, found.top_id[rows], found.top_score[rows], margin)
    if not placed.wanted.studies:
        return len(rows)
    asked = np.unique(study)
    back = _scores(records.texts[records.study_text[asked]], records, "images")
    best = np.where(records.image_study == asked[:, None], back, -np.inf).max(axis=1)
    margin = _margin(placed.around.study_low[asked], placed.around.study_high[asked], placed.wanted.banded)
    _compare(records, (asked, records.image_study), back, (best, margin), found.per_study[:, :-1][:, :, asked], "studies")
    return len(rows) + len(asked)


def settled(records: Records, mesh: meshes.Mesh, precision: str, k: int, sample: int = SAMPLE) -> Settled:
    """Returns how the integers of a faster precision compare with those of float32, once a sample of them was found exact in float64.

    Raises: UnsoundError: an integer that is not the exact one.
    """
    told = faster.Pass(mesh, layout.DEFAULT, precision).links(records, False, k, None)
    plain = exact.Pass(mesh, layout.DEFAULT).links(records, False, k, None)
    rows = np.unique(np.linspace(0, len(records.images) - 1, sample).astype(np.int64))
    study = records.image_study[rows]
    scores = _scores(records.images[rows], records, "texts")[:, records.study_text]
    margin = np.full(len(rows), _FLOAT64)
    truth = scores[np.arange(len(rows)), study]
    _compare(records, (study, np.arange(len(records.study_text))), scores, (truth, margin), told.per_image[:, :, rows], "images")
    equal = (told.per_image == plain.per_image).all(axis=(0, 1))
    return Settled(int(equal.sum()), len(equal), told.settling[0])


def _scores(queries: np.ndarray, records: Records, side: str) -> np.ndarray:
    """Returns float64 scores [n, C] of rows [n, D] against all texts or all images."""
    candidates, wide = getattr(records, side), queries.astype(np.float64)
    out = np.empty((len(queries), len(candidates)))
    for part in blocks(candidates):
        out[:, part] = wide @ candidates[part].astype(np.float64).T
    return out


def _margin(low: np.ndarray, high: np.ndarray, banded: bool) -> np.ndarray:
    """Returns how far from the truth a candidate must be for its side to be sure: a band on either side of the limit's own, or float32's rounding."""
    return (high.astype(np.float64) - low) if banded else np.full(len(low), recheck.TOLERANCE)


def _compare(
    records: Records, sides: tuple[np.ndarray, np.ndarray], scores: np.ndarray, truths: tuple[np.ndarray, np.ndarray], found: np.ndarray, what: str
) -> None:
    """Raises `UnsoundError` unless answers [J, answers, n] lie where float64 scores [n, C] let them.

    Args: sides: studies of the queries [n] and of the candidates [C]. truths: scores of the truths and their margins [n].
    """
    for row, (truth, margin) in enumerate(zip(*truths, strict=True)):
        sure, possible = scores[row] > truth + margin, scores[row] >= truth - margin
        for number, (name, counted) in enumerate(_strata(records, sides[0][row], sides[1])):
            above, reached = found[:, 2 * number, row], found[:, 2 * number + 1, row]
            low, high = (_by_block(records, sides[1][counted & hit]) for hit in (sure, possible))
            if not ((low <= above) & (above <= reached) & (reached <= high)).all():
                expected = f"g >= {low.sum():,} and g + t <= {high.sum():,} of query {row} of the sample, and so in every jackknife block"
                where = f"bench check of {what}, {name}"
                raise errors.UnsoundError(errors.describe("counts differ from float64", where, expected, f"g = {above.sum():,}, g + t = {reached.sum():,}"))


def _strata(records: Records, study: int, candidates: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (stratum, whether each candidate, a study [C], is counted in it) for a query's study.

    Of texts of one kind only the right one is left out, as the host adds the others: the texts here are distinct.
    """
    other = records.exclusion[candidates] != records.exclusion[study]
    yield OTHER_PATIENT, other
    for name, code in records.codes.items():
        yield name, other & (code[candidates] == code[study]) & (code[study] >= 0)


def _by_block(records: Records, studies: np.ndarray) -> np.ndarray:
    """Returns how many of these studies lie in each jackknife block, [J]."""
    return np.bincount(np.zeros_like(studies) if records.block is None else records.block[studies], minlength=records.n_blocks)


def _check_lists(scores: np.ndarray, ids: np.ndarray, listed: np.ndarray, margin: np.ndarray) -> None:
    """Raises `UnsoundError` unless lists [n, k] hold distinct candidates, with their scores, and none that is surely worse than one left out."""
    k = ids.shape[1]
    for row, one, told, within in zip(scores, ids, listed, margin, strict=True):
        best = np.partition(row, len(row) - k)[len(row) - k]
        right = len(np.unique(one)) == k and one.min() >= 0
        if not (right and np.abs(row[one] - told).max() <= within and row[one].min() >= best - within and (np.diff(told) <= 0).all()):
            raise errors.UnsoundError(errors.describe("top list differs from float64", "bench check of images", f"the {k} best candidates", "others"))
