"""Everything that results tell beyond metrics, from tables alone: attacks, curve, who is at risk, decisions, bits, hard negatives.

One function makes all of it, when an audit is saved and when it is recomputed from its files, so that no number can come from elsewhere. What
no table can give back is `Given`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import (
    anonymity,
    bands,
    bits,
    decisions,
    groups,
    hard_negatives,
    matched,
    open_set,
    queries,
    regression,
    right_patient,
    risk,
    selective,
    uncertainty,
    under_attack,
)
from relink_jax.audit import verification as pairwise
from relink_jax.audit.attacks import shuffle
from relink_jax.audit.per_image import COSINE, SHUFFLE, PerImage
from relink_jax.audit.sample import Sample
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, StratumCounts

BEST = "best"
DEALT = "dealt"  # stratum of the null experiment


@dataclasses.dataclass(frozen=True)
class Given:
    """What was taken from passes over all pairs: thresholds of impostor scores, and the inverse temperature of the softmax; None where not measured."""

    verification: pairwise.Measured | None = None
    beta: float | None = None


def given_of(document: Mapping[str, Any]) -> Given:
    """Returns what a results file was made with."""
    shown, found = document.get("verification"), document.get("bits", {}).get("infonce")
    return Given(None if shown is None else pairwise.measured_of(shown), None if found is None else found["beta"])


def compute(
    tables: Mapping[str, queries.Queries],
    extra: PerImage | None,
    protocol: Mapping[str, Any],
    described: Sequence[Mapping[str, Any]],
    given: Given,
) -> dict[str, Any]:
    """Returns the sections of a results file that these tables allow, by name; nothing where nothing beyond counts was kept.

    Args: described: attacks without figures, see `under_attack.entries`.
    """
    if extra is None or I2R not in tables:
        return {}
    return _Told(tables, extra, protocol, described, given).every()


class _Told:
    def __init__(
        self, tables: Mapping[str, queries.Queries], extra: PerImage, protocol: Mapping[str, Any], described: Sequence[Mapping[str, Any]], given: Given
    ) -> None:
        names, patient_of = queries.patients(tables)
        self.tables, self.extra, self.protocol, self.described, self.given = tables, extra, protocol, described, given
        self.table = tables[I2R]
        self.sample = Sample(patient_of[I2R], len(names), uncertainty.Bootstrap(**protocol["bootstrap"]))
        self.raw = self.table.strata[OTHER_PATIENT]
        self.best = next((str(one["label"]) for one in described if one["selected"]), COSINE)
        self.largest = int(self.raw.M.max(initial=0)) + 1
        fitting = [size for size in protocol["pool_sizes"] if size <= self.largest]
        self.sizes: list[int | None] = [*fitting, None]
        self.shown: list[int | None] = [*([max(fitting)] if fitting else []), None]  # pools in which risk is told

    def every(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self.described:
            out["attacks"] = under_attack.entries(self.tables, self.extra, self.described, self.protocol)
        out["curve"] = self._curve()
        out |= self._risk() | self._decisions() | self._hard() | self._bits()
        out["anonymity"] = anonymity.section(self.raw.t, self.extra.duplicates)
        if self.extra.siblings is not None:
            out["right_patient"] = right_patient.section(self.raw, self.extra.siblings, self.shown, self.sample)
        if self.given.verification is not None:
            out["verification"] = pairwise.section(self.given.verification, self.extra.scores["cosine_own"], self.sample, self.sizes, self.largest)
        if SHUFFLE in self.extra.attacks:
            out["null"] = shuffle.null(self.extra.attacks[SHUFFLE][DEALT], self.sample.patient, self.sizes)
        return out

    def _kept(self, counted: StratumCounts, rows: np.ndarray) -> StratumCounts:
        """Returns counts whose queries outside `rows` (bool [Q]) have no candidates, so that nothing is told of them."""
        return StratumCounts(*(np.where(rows, array, 0) for array in (counted.M, counted.g, counted.t)))

    def _curve(self) -> list[dict[str, Any]]:
        judged = self.extra.evaluated & (self.raw.M >= 1)
        grid = bands.grid(int(self.raw.M[judged].min()) + 1) if judged.any() else [None]
        found = [bands.curve(COSINE, bands.pooled(self._kept(self.raw, judged), grid), self.sample)]
        if self.best != COSINE:
            seen = self.extra.attacks[self.best][OTHER_PATIENT]
            found.append(bands.curve(BEST, bands.pooled(self._kept(seen, judged), grid), self.sample))
        if LABEL_MATCHED in self.table.strata:
            alike = self.table.strata[LABEL_MATCHED].M
            known = judged & self._labelled()
            if known.any():
                found.append(bands.curve("label_only", bands.label_only(self.raw.M, alike, known, grid), self.sample, band=False))
        return found

    def _labelled(self) -> np.ndarray:
        """Returns which queries' studies have labels, bool [Q]."""
        code = self.extra.label_code
        return np.zeros(len(self.raw.M), bool) if code is None else code >= 0

    def _risk(self) -> dict[str, Any]:
        out: dict[str, Any] = {"risk": []}
        labels = [(COSINE, COSINE)] + ([(BEST, self.best)] if self.best != COSINE else [])
        for name, label in labels:
            for size in self.shown:
                rows, p = under_attack.hits(self.table, self.extra, label, size)
                where: dict[str, Any] = {"N": self.largest if size is None else size, "full": size is None}
                entry = risk.entry(p, rows, self.sample, **where, attack=name)
                out["risk"] += [{key: value for key, value in entry.items() if value is not None}] if entry else []  # no share of no risk at all
                if size is None or size != self.shown[0] or name != labels[-1][0]:
                    continue
                told = (
                    groups.section(p, rows, self.extra.attributes, self.sample, **where),
                    regression.section(p, rows, self.extra.attributes, self.sample, **where),
                )
                out |= {key: {**one, "attack": name} for key, one in zip(("groups", "regression"), told, strict=True) if one}
        return out

    def _decisions(self) -> dict[str, Any]:
        scores = self.extra.scores
        if "own" not in scores:
            return {}
        counted = self.raw if self.best == COSINE else self.extra.attacks[self.best][OTHER_PATIENT]
        made = decisions.decide(scores["own"], scores["best_impostor"], scores["second_impostor"], counted)
        sizes = np.where(self.extra.evaluated, counted.M + 1, 1)
        found = {
            "selective": selective.section(made.margin, made.right, sizes, self.sample),
            "open_set": open_set.section(made.own_score, made.best_impostor, made.right, sizes, self.sample),
        }
        return {name: {**one, "attack": self.best} for name, one in found.items() if one}

    def _hard(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        code = self.extra.label_code
        if len(self.table.strata) > 1:
            out["matched"] = matched.section(self.table.strata, code, self.sample, self.sizes)
        if self.extra.tiers:
            out["tiered"] = hard_negatives.section(self.extra.tiers, self.sample, self.sizes)
        return out

    def _bits(self) -> dict[str, Any]:
        found = {"rank_corrected": bits.rank_corrected(self.raw.M, self.raw.g, self.raw.t, self.sample)}
        if self.given.beta is not None:
            found["infonce"] = bits.infonce(self.extra.scores["log2_posterior"], self.raw.M, self.given.beta, self.sample)
        return {"bits": {name: one for name, one in found.items() if one}}
