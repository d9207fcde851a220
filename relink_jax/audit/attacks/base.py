"""What an attack is: a small object that turns what the attacker holds into vectors whose inner products are his scores.

Most post-processing of cosine scores changes the score s of an image with report r into a_r s + b_r, which is again an inner product
after one more dimension is added; maps, fused queries and fused models are inner products from the start. So an attack ends in a
`Space`, the counting pass turns that into the integers M, g, t, and closed forms, strata, intervals and the page need to know nothing of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from relink_jax.audit.inputs import AuditInputs
from relink_jax.retrieval.kept import Kept
from relink_jax.retrieval.layout import DEFAULT, Layout
from relink_jax.store.rows import RowSource

RAW, NORMALISATION, ASSIGNMENT, FUSION, REALIGNMENT, BASELINE = "raw", "normalisation", "assignment", "fusion", "realignment", "baseline"
INDUCTIVE, TRANSDUCTIVE = "inductive", "transductive"


@dataclasses.dataclass(frozen=True)
class Features:
    """Vectors before the head, which anyone with the public encoder can compute: float32 [Q, F] of images and [U, G] of distinct reports."""

    images: np.ndarray
    texts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Target:
    """Everything an attacker may use.

    Attributes:
        inputs: the audited people. He sees the vectors; truth and patients are there for the counting alone, and no attack may read them.
        auxiliary: image-report pairs of other patients, embedded by the same heads, which he holds with their truth.
        features, auxiliary_features: the same people before the head; None where nobody kept them.
        others: the audited people embedded by other models, rows as in `inputs`; for fusion.
        attributes, auxiliary_attributes: what he knows of each *study* besides its vectors, by name: float64 or object [S].
        mesh, layout: where passes run. kept: where what passes find is kept until the attack is done; None for nowhere.
    """

    inputs: AuditInputs
    auxiliary: AuditInputs
    mesh: Mesh
    layout: Layout = DEFAULT
    features: Features | None = None
    auxiliary_features: Features | None = None
    others: Sequence[AuditInputs] = ()
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    auxiliary_attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    kept: Kept | None = None


@dataclasses.dataclass(frozen=True)
class Space:
    """What the attacker compares.

    Attributes:
        images: float32 [Q, E], one row per image of the target; texts: float32 [U, E], one row per distinct report; scores are inner
            products. Equal reports have equal rows.
        passes: how many passes over all images and reports it took to make, the counting pass itself not among them.
        params: settings that were used, JSON-ready.
        study_text: row of `texts` of each study, int32 [S], where the attacker compares something else than reports, such as what he knows of a
            study: `texts` are then [V, E], distinct; None for the target's own `study_text`.
    """

    images: RowSource
    texts: RowSource
    passes: float = 0.0
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    study_text: np.ndarray | None = None


class Attack(Protocol):
    """One attack with its settings; frozen dataclasses satisfy it.

    One that cannot always be tried also has `why_not(target) -> str | None`, the sentence why it cannot on this target (`calibration.why_not`); one that
    compares vectors before the head has `features` = 'before_head'.
    """

    @property
    def name(self) -> str:
        """As in results, such as 'csls'."""

    @property
    def family(self) -> str:
        """One of the families above."""

    @property
    def bank(self) -> str | None:
        """Which image bank statistics come from, INDUCTIVE or TRANSDUCTIVE; None without one."""

    @property
    def pairs(self) -> int | None:
        """Auxiliary pairs that it is fitted on; None where it needs none."""

    def space(self, target: Target) -> Space:
        """Returns what the attacker compares."""

    def variants(self, target: Target) -> Sequence["Attack"]:
        """Returns the settings among which calibration patients choose, itself alone where there is nothing to choose."""


def adjusted(images: RowSource, texts: RowSource, scale: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([Q, D + 1], [U, D + 1]) float32 whose inner products are scale_r s + offset_r for every report r, scale and offset float64 [U]."""
    queries = np.concatenate([np.asarray(images[:], np.float32), np.ones((len(images), 1), np.float32)], axis=1)
    rows = np.asarray(texts[:], np.float64) * scale[:, None]
    return queries, np.concatenate([rows, offset[:, None]], axis=1).astype(np.float32)
