"""`relink bench attacks`: what each attack costs on a database, as a multiple of one counting pass over it.

Random unit vectors: costs depend on sizes alone. An attack is timed from embeddings to counts (statistics, fits, and its own counting pass) with
its settings given; what calibration people cost is timed apart, since they are capped and do not grow with the database. A round times the plain
pass, image to report with lists of ten, and then every attack; figures are medians of the ratios in each round, compilation not timed.
"""

import dataclasses
import time
from statistics import median
from typing import Any

import numpy as np

from relink_jax.audit import adversary, holdings
from relink_jax.audit import inputs as inputs_lib
from relink_jax.audit.attacks import base, calibration
from relink_jax.retrieval import counts as counting
from relink_jax.retrieval.counted import I2R, Records
from relink_jax.retrieval.layout import DEFAULT
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress

_SEED, _LISTED = 20_000, 10


@dataclasses.dataclass(frozen=True)
class Row:
    """An attack's cost over one counting pass: median, least and most of per-round ratios; passes of those are the plain pass's own kind."""

    attack: str
    multiple: float
    least: float
    most: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """All rows; `calibration` is the time of choosing all settings over one counting pass, `left_out` what cannot be tried at this size."""

    rows: list[Row]
    candidates: int
    dim: int
    auxiliary: int
    seconds: float
    calibration: float
    left_out: list[str]

    def values(self) -> dict[str, Any]:
        """Returns the same, JSON-ready."""
        return dataclasses.asdict(self)


def measure(candidates: int, dim: int, auxiliary: int, rounds: int) -> Measured:
    """Returns costs on `candidates` images against as many studies of width `dim`, for an attacker with `auxiliary` pairs."""
    generator = np.random.default_rng(_SEED)
    audited, his, other = (_people(generator, n, dim) for n in (candidates, auxiliary, candidates))
    held = holdings.Holding(his, _features(generator, audited), _features(generator, his), (other,))
    meshes.share_cpu()
    mesh = meshes.make_mesh()
    target = holdings.target(audited, held, mesh, DEFAULT)
    records = Records(audited.images, audited.image_study, audited.texts, audited.study_text, audited.study_patient, {})
    every = holdings.attacks(holdings.NAMES, target, 0)
    able = [one for one in every if calibration.why_not(one, target) is None]
    seconds: dict[str, list[float]] = {}
    with progress.quiet():
        started = time.perf_counter()
        calibration.choose(able, target)
        chosen = time.perf_counter() - started
        for turn in range(rounds + 1):
            for label, attack in (("", None), *((adversary.label_of(one), one) for one in able)):
                spent = _timed(attack, target, records)
                if turn:
                    seconds.setdefault(label, []).append(spent)
    plain = seconds.pop("")
    rows = [_row(label, np.divide(spent, plain)) for label, spent in seconds.items()]
    left = [f"{adversary.label_of(one)}: {calibration.why_not(one, target)}" for one in every if one not in able]
    return Measured(rows, candidates, dim, auxiliary, float(median(plain)), chosen / float(median(plain)), left)


def table(measured: Measured) -> str:
    """Returns the figures as text."""
    head = (
        f"{measured.candidates:,} images and studies, D = {measured.dim}, {measured.auxiliary:,} auxiliary pairs; a counting pass took {measured.seconds:.2f} s"
    )
    lines = [f"  {row.attack:<28} {row.multiple:6.2f}  ({row.least:.2f} to {row.most:.2f})" for row in measured.rows]
    left = [f"  left out: {one}" for one in measured.left_out]
    calibrated = f"  choosing settings on calibration people: {measured.calibration:.2f}, compilation included, whatever the size of the database"
    return "\n".join([head, "  attack, from embeddings to counts, in counting passes:", *lines, calibrated, *left])


def _timed(attack: base.Attack | None, target: base.Target, records: Records) -> float:
    started = time.perf_counter()
    if attack is None:
        counting.count(records, mesh=target.mesh, top_k=_LISTED, layout=target.layout, directions=(I2R,))
    else:
        adversary.measured(attack, target, records)
    return time.perf_counter() - started


def _row(label: str, ratios: np.ndarray) -> Row:
    return Row(label, float(median(ratios)), float(ratios.min()), float(ratios.max()))


def _people(generator: np.random.Generator, n: int, dim: int) -> inputs_lib.AuditInputs:
    """Returns n images of n studies of n / 2 patients."""
    rows = [generator.standard_normal((n, dim)).astype(np.float32) for _ in range(2)]
    facts = {"report_words": generator.integers(10, 100, n).tolist(), "sex": generator.choice(["F", "M"], n).tolist()}
    numbers = range(n)
    return inputs_lib.prepare(
        images=rows[0], texts=rows[1], image_study=list(numbers), text_study=list(numbers), patient=[one // 2 for one in numbers], study_facts=facts
    )


def _features(generator: np.random.Generator, people: inputs_lib.AuditInputs) -> base.Features:
    return base.Features(*(generator.standard_normal(side.shape).astype(np.float32) for side in (people.images, people.texts)))
