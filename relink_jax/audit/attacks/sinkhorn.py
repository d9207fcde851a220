"""Sinkhorn: the attacker knows that images and reports belong together, and spreads each image over the reports and each report over the images.

With scores s, temperature T and offsets a of images and b of reports, P = exp((s + a + b) / T) is made to give every image one unit and every
report its share of the units, the number of studies with its text over that of all. Every half step is one streamed pass of log sums,
and no array of images x reports exists. What remains for the ranking is b.

Source: Cuturi (2013), arXiv 1306.0895; for retrieval with a bank of queries, arXiv 2508.02538.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from relink_jax import errors
from relink_jax.audit.attacks import bank as banks
from relink_jax.audit.attacks import base
from relink_jax.retrieval import statistics
from relink_jax.store.rows import RowSource

TEMPERATURES = (0.1, 0.2, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Sinkhorn:
    """Alternating normalisation over all queries and reports.

    Attributes:
        temperature: T in standard deviations of the scores, see `bank.Scored`.
        iterations: most of them, of two passes each, after one pass for the reports, which is the inverted softmax. tolerance: of the images'
            units, at which it stops before.
    """

    temperature: float = 0.2
    iterations: int = 10
    tolerance: float = 1e-3

    name: ClassVar[str] = "sinkhorn"
    family: ClassVar[str] = base.ASSIGNMENT
    bank: ClassVar[str | None] = base.TRANSDUCTIVE
    pairs: ClassVar[int | None] = None

    def space(self, target: base.Target) -> base.Space:
        """Returns s + b, with b for one study of each report; `params` say how far from one unit the images still were.

        `unit_error` is the mean over images of |units - 1|, taken before the last half step, after which it is no greater.

        Raises: UsageError: no iterations, or a temperature that is not above 0.
        """
        if self.iterations < 1:
            raise errors.UsageError(errors.describe("iterations", "Sinkhorn", "1 or more", str(self.iterations)))
        sides = banks.scored(target, base.TRANSDUCTIVE)
        reports, error, done = self._balanced(target, sides)
        made = base.adjusted(sides.images, sides.texts, np.ones(len(reports)), reports - reports.mean())
        params = {"temperature": self.temperature, "iterations": done, "unit_error": error}
        return base.Space(*made, passes=1.0 + 2 * done, params=params)

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself, then the other temperatures."""
        return [self, *(dataclasses.replace(self, temperature=value) for value in TEMPERATURES if value != self.temperature)]

    def _balanced(self, target: base.Target, sides: banks.Scored) -> tuple[np.ndarray, float, int]:
        """Returns (b of one study of each report [U], mean |units - 1|, iterations done)."""
        unit = self.temperature * sides.unit
        studies = np.bincount(target.inputs.study_text, minlength=len(sides.texts))
        together, share = unit * np.log(studies), unit * np.log(len(sides.images) / studies.sum())
        images, error, done = np.zeros(len(sides.images)), np.inf, 0
        reports = share - self._log_sums(target, sides.texts, sides.images, unit, images, "reports-00")
        while error > self.tolerance and done < self.iterations:
            before, images = images, -self._log_sums(target, sides.images, sides.texts, unit, reports + together, f"images-{done:02d}")
            error = float(np.abs(np.expm1((before - images) / unit)).mean())
            done += 1
            reports = share - self._log_sums(target, sides.texts, sides.images, unit, images, f"reports-{done:02d}")
        return reports, error, done

    def _log_sums(self, target: base.Target, side: RowSource, other: RowSource, unit: float, offset: np.ndarray, label: str) -> np.ndarray:
        """Returns T log sum exp((s + offset) / T) of every row of one side over the other, with T = unit; kept under `label`."""
        options: dict[str, Any] = {"layout": target.layout, "what": self.name, "kept": target.kept, "label": label}
        return unit * statistics.over_bank(side, other, target.mesh, [unit], offset=offset, **options).logsumexp[:, 0]
