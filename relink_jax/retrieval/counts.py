"""One streamed pass over all images and reports: exact counts of better and tied candidates for every query.

image -> report (i2r): the query is an image, the candidates are studies, the truth is the image's own study, scored by its
report. report -> image (r2i): the query is a study's report, the candidates are images, the truth is the *best* of the
study's own images (any of them is a link), and the study's other images are no candidates.

For each query and stratum: M eligible negatives, g that score above the truth, t that tie with it.
  other_patient: candidates whose exclusion key differs from the query's. The key is the patient (same-patient studies are
    neither right nor wrong, they are left out) or the study (same-patient studies count as wrong).
  further strata: those of them whose code equals the query study's; studies without a code neither ask nor answer.

A query's own text group is masked on the device and its eligible members are added to t on the host, so a duplicate of the right
report is a tie whatever the product rounds. Other identical rows get identical scores because a score has the same bits wherever
in a tile it is computed; thresholds come from the same product, and the count is refused if a tile does not hold them bit for bit.

Memory: one tile of scores per device, one batch of images, all candidates once per device; never images x studies.

Guarantees: the integers do not depend on mesh, batch or tile where scores are exact in float32 (small-integer embeddings); elsewhere
they differ only by candidates within rounding of the threshold.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from relink_jax.retrieval import eligible, exact, faster, resume
from relink_jax.retrieval.counted import I2R, OTHER_PATIENT, R2I, DirectionCounts, Records, StratumCounts
from relink_jax.retrieval.layout import DEFAULT, Layout
from relink_jax.retrieval.product import FLOAT32


def count(
    records: Records,
    *,
    mesh: Mesh,
    top_k: int = 10,
    layout: Layout = DEFAULT,
    precision: str = FLOAT32,
    directions: Sequence[str] = (I2R, R2I),
    lists: Sequence[str] = (I2R, R2I),
    directory: pathlib.Path | resume.Place | None = None,
) -> dict[str, DirectionCounts]:
    """Returns the counts of the directions asked for, by name.

    Args:
        mesh: 1-D mesh with axis 'data'.
        top_k: candidates kept per query; 0 keeps none.
        layout: shape of the pass and what the devices share. Speed and memory only.
        precision: of the product, see `product`; what it leaves open is settled by exact scores, see `faster`.
        directions: what is counted; lists: for which of them candidates are kept. Those of r2i cost a second product, with the sides exchanged.
        directory: where finished parts of the passes are kept, so that a count that stops goes on where it was, on these devices or others (see
            `resume`); None keeps none.
    Raises: StoreError: `directory` holds parts of another count. StoppedError: after a part, see `stopping.check`. UnsoundError: a tile did not hold the scores of the true pairs.
        UsageError: a precision that the devices do not have.
    """
    kept = resume.place(directory)
    run = exact.Pass(mesh, layout) if precision == FLOAT32 else faster.Pass(mesh, layout, precision)
    linked = run.links(records, R2I in directions, top_k if I2R in directions and I2R in lists else 0, kept and kept / "links")
    out = {}
    if I2R in directions:
        out[I2R] = _image_queries(records, linked)
    if R2I in directions:
        listed = run.lists(exact.by_text(records), top_k if R2I in lists else 0, kept and kept / "lists")
        out[R2I] = _study_queries(records, linked, listed)
    return out


def _image_queries(records: Records, linked: exact.Linked) -> DirectionCounts:
    asked = records.image_study
    query_codes = {name: code[asked] for name, code in records.codes.items()}
    keys, texts = records.exclusion, records.study_text

    def twins(among: Any) -> dict[str, np.ndarray]:
        return eligible.sizes(keys[among], _among(records, among), keys[asked], query_codes, texts[among], texts[asked])

    def strata(answers: np.ndarray, among: Any) -> dict[str, StratumCounts]:
        M, alike = eligible.sizes(keys[among], _among(records, among), keys[asked], query_codes), twins(among)
        return {name: _stratum(M[name], answers[2 * row : 2 * row + 2], alike[name]) for row, name in enumerate(M)}

    blocks = {}
    if records.block is not None:
        blocks = _by_stratum([strata(linked.per_image[number], records.block == number) for number in range(records.n_blocks)])
    near = np.column_stack([*linked.near, twins(slice(None))[OTHER_PATIENT]])
    query = np.arange(len(asked), dtype=np.int32)
    return DirectionCounts(query, linked.own, strata(linked.per_image.sum(axis=0), slice(None)), *linked.lists, near, blocks, linked.settling[0])


def _study_queries(records: Records, linked: exact.Linked, lists: exact.Lists) -> DirectionCounts:
    query = np.unique(records.image_study).astype(np.int32)
    query_codes = {name: code[query] for name, code in records.codes.items()}

    def strata(answers: np.ndarray, images: np.ndarray) -> dict[str, StratumCounts]:
        M = eligible.sizes(records.exclusion[images], _among(records, images), records.exclusion[query], query_codes)
        return {name: _stratum(M[name], answers[2 * row : 2 * row + 2, query]) for row, name in enumerate(M)}

    blocks = {}
    if records.block is not None:
        image_block = records.block[records.image_study]
        blocks = _by_stratum([strata(linked.per_study[number], records.image_study[image_block == number]) for number in range(records.n_blocks)])
    text = records.study_text[query]
    whole = strata(linked.per_study.sum(axis=0), records.image_study)
    return DirectionCounts(query, linked.best[query], whole, lists[0][text], lists[1][text], None, blocks, linked.settling[1])


def _among(records: Records, studies: Any) -> dict[str, np.ndarray]:
    return {name: code[studies] for name, code in records.codes.items()}


def _stratum(M: np.ndarray, answers: np.ndarray, twins: np.ndarray | int = 0) -> StratumCounts:
    """Returns the integers of one stratum from its two answers, [2, Q]: above the threshold, and reaching it."""
    above, reached = answers.astype(np.int64)
    return StratumCounts(M, above, reached - above + twins)


def _by_stratum(by_block: list[dict[str, StratumCounts]]) -> dict[str, list[StratumCounts]]:
    return {name: [block[name] for block in by_block] for name in by_block[0]}
