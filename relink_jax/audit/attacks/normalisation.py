"""Score normalisation: a report's score is set against its scores over a bank of images, so that reports that are near to everything stop winning.

Every statistic belongs to a report, so the normalised scores are scale_r s + offset_r and rank in the ordinary counting pass. The bank is
unpaired: images of other people, or the queries themselves, with the query among them, as an attacker would do it.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from relink_jax.audit.attacks import bank as banks
from relink_jax.audit.attacks import base
from relink_jax.retrieval import statistics

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
NEIGHBOURS = (1, 3, 10, 30, 100)
_LEAST = 1e-3  # of the usual deviation, below which a report's own counts as this


@dataclasses.dataclass(frozen=True)
class ZNorm:
    """(s - mean) / standard deviation of the report's scores over the bank; no pass, both are closed forms.

    Source: zero normalisation of speaker verification, Auckenthaler, Carey and Lloyd-Thomas (2000), Digital Signal Processing 10, 42-54.
    """

    bank: str = base.INDUCTIVE

    name: ClassVar[str] = "znorm"
    family: ClassVar[str] = base.NORMALISATION
    pairs: ClassVar[int | None] = None

    def why_not(self, target: base.Target) -> str | None:
        """Returns why it cannot be tried, None where it can."""
        return banks.why_not(target, self.bank)

    def space(self, target: base.Target) -> base.Space:
        """Returns scores in standard deviations of the report, times the deviation that is usual, so that they stay the size of cosines."""
        sides = banks.scored(target, self.bank)
        found = sides.moments
        usual = float(np.sqrt(found.variance.mean()))
        scale = usual / np.maximum(found.standard_deviation, _LEAST * usual) if usual else np.ones(len(found.mean))
        return base.Space(*base.adjusted(sides.images, sides.texts, scale, -scale * found.mean))

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself."""
        return (self,)


@dataclasses.dataclass(frozen=True)
class CSLS:
    """2 s - the mean of the report's k greatest scores over the bank; the image's own term changes no ranking of its reports.

    Source: Conneau et al. (2018), arXiv 1710.04087, which takes k = 10.
    """

    k: int = 10
    bank: str = base.INDUCTIVE

    name: ClassVar[str] = "csls"
    family: ClassVar[str] = base.NORMALISATION
    pairs: ClassVar[int | None] = None

    def why_not(self, target: base.Target) -> str | None:
        """Returns why it cannot be tried, None where it can."""
        return banks.why_not(target, self.bank)

    def space(self, target: base.Target) -> base.Space:
        """Returns the scores, with the whole bank as neighbours where it has fewer than k.

        Raises: UsageError: k below 1.
        """
        sides = banks.scored(target, self.bank)
        k = min(self.k, len(sides.bank))
        found = statistics.over_bank(sides.texts, sides.bank, target.mesh, (), k, layout=target.layout, what=self.name, kept=target.kept)
        made = base.adjusted(sides.images, sides.texts, np.full(len(sides.texts), 2.0), sides.level - found.csls_term())
        return base.Space(*made, passes=banks.passes(target, self.bank), params={"k": k})

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself, then the other numbers of neighbours that the bank has."""
        most = len(banks.rows_of(target, self.bank))
        return [self, *(dataclasses.replace(self, k=k) for k in NEIGHBOURS if k != self.k and k <= most)]


@dataclasses.dataclass(frozen=True)
class InvertedSoftmax:
    """s / T - log sum exp of the report's scores over the bank / T: a softmax over images in place of reports.

    T is `temperature` times the standard deviation of the scores, see `bank.Scored`. Times T, so that scores stay the size of cosines.

    Source: Smith et al. (2017), arXiv 1702.03859; with a bank of other queries QB-Norm, Bogolin et al. (2022), arXiv 2112.12777.
    """

    temperature: float = 0.2
    bank: str = base.INDUCTIVE

    name: ClassVar[str] = "inverted_softmax"
    family: ClassVar[str] = base.NORMALISATION
    pairs: ClassVar[int | None] = None

    def why_not(self, target: base.Target) -> str | None:
        """Returns why it cannot be tried, None where it can."""
        return banks.why_not(target, self.bank)

    def space(self, target: base.Target) -> base.Space:
        """Returns the scores, less what is the same for all reports.

        Raises: UsageError: a temperature that is not above 0.
        """
        sides = banks.scored(target, self.bank)
        unit = self.temperature * sides.unit
        found = statistics.over_bank(sides.texts, sides.bank, target.mesh, [unit], layout=target.layout, what=self.name, kept=target.kept)
        offset = -unit * found.logsumexp[:, 0]
        made = base.adjusted(sides.images, sides.texts, np.ones(len(offset)), offset - offset.mean())
        return base.Space(*made, passes=banks.passes(target, self.bank), params={"temperature": self.temperature})

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself, then the other temperatures."""
        return [self, *(dataclasses.replace(self, temperature=value) for value in TEMPERATURES if value != self.temperature)]
