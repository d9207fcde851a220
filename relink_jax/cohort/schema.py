"""The cohort: images, studies, patients and unique report texts in four integer key spaces, joined by index.

A pairs table says everything once per image-report pair; here it is said once per image, study, patient or text, so that
multi-image studies and byte-identical reports cost nothing and cannot disagree with themselves. Identifiers of the archive
do not survive: keys are HMACs under the workdir's secret, useless elsewhere.

Design note: one report per study. An archive with several texts for one study has to say which one is meant.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.cohort import paths
from relink_jax.store import digests, files, tables

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
BLANK = -2
SPLITS = ("train", "validate", "test")
VIEWS = ("PA", "AP", "FRONTAL", "LATERAL", "OTHER", "")  # FRONTAL: PA or AP, the archive does not say which
EXPOSURES = ("seen", "unseen", "unknown")
ORIGINS = (  # parts of published releases, which models were or were not trained on; '' where unknown
    *("mimic-cxr/train", "mimic-cxr/validate", "mimic-cxr/test", "chexpert-plus/train", "chexpert-plus/valid", "openi"),
    *("rexgradient/train", "rexgradient/valid", "rexgradient/test", "padchest", ""),
)

_RECORD = "cohort.json"
_IMAGES = ("image_key", "image_study", "image_source", "image_path", "image_view", "image_prior")
_STUDIES = ("study_key", "study_patient", "study_split", "study_site", "study_exposure", "study_origin", "study_text", "study_has_labels")
_FACT = "fact:"  # in front of a fact's name in its column
_SECRET = ("image_key", "study_key", "patient_key", "text_key")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Indices of a part of a cohort: `images` int32 [i], `studies` int32 [s], both ascending; every image's study is in `studies`."""

    images: np.ndarray
    studies: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cohort:
    """All NumPy, image i in [I), study s in [S), patient p in [P), unique text u in [U).

    `study_labels` int8 [S, 14] holds 1, 0, -1 (uncertain) or `BLANK` (not mentioned); where `study_has_labels` is false
    the row is all blank because nobody labelled the study. `image_path` is relative to the one of `image_roots` whose number
    `image_source` int32 [I] holds. `image_prior` int32 [I] is the earlier image of the same patient that an image is to be
    compared with, -1 for none. `study_origin` is one of `ORIGINS`. `counts` records every inclusion decision, `recipe` the
    declared choices behind them as JSON-ready fields (`recipes.Recipe.record`), empty where there were none. `study_facts` are what the
    audit groups studies by (see `facts`), by name: str objects [S] with '' where not recorded, or float64 [S] with NaN.
    Raises: DataError: arrays that do not fit together, a patient in two splits.
    """

    name: str
    synthetic: bool
    image_roots: tuple[pathlib.Path, ...]
    image_key: np.ndarray
    image_study: np.ndarray
    image_source: np.ndarray
    image_path: np.ndarray
    image_view: np.ndarray
    image_prior: np.ndarray
    study_key: np.ndarray
    study_patient: np.ndarray
    study_split: np.ndarray
    study_site: np.ndarray
    study_exposure: np.ndarray
    study_origin: np.ndarray
    study_text: np.ndarray
    study_labels: np.ndarray
    study_has_labels: np.ndarray
    patient_key: np.ndarray
    text: list[str]
    text_key: np.ndarray
    counts: dict[str, int]
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    study_facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"image": len(self.image_key), "study": len(self.study_key), "patient": len(self.patient_key), "text": len(self.text)}
        for field in dataclasses.fields(self):
            kind = field.name.split("_")[0]
            if "_" in field.name and kind in sizes and field.name not in ("image_roots", "study_facts") and len(getattr(self, field.name)) != sizes[kind]:
                raise errors.DataError(errors.describe(f"column {field.name}", "cohort", f"{sizes[kind]} rows", str(len(getattr(self, field.name)))))
        for name, kind in (("image_study", "study"), ("study_patient", "patient"), ("study_text", "text")):
            self._check_index(name, sizes[kind])
        self._check_index("image_source", len(self.image_roots))
        for name, values in self.study_facts.items():
            if values.shape != (sizes["study"],) or values.dtype not in (object, np.float64):
                found = f"shape {values.shape} of {values.dtype}"
                raise errors.DataError(errors.describe(f"fact {name!r}", "cohort", f"[{sizes['study']}] strings or float64", found))
        self._check_priors()
        if self.study_labels.shape != (sizes["study"], len(LABELS)) or not np.isin(self.study_labels, (1, 0, -1, BLANK)).all():
            raise errors.DataError(
                errors.describe(
                    "study_labels", "cohort", f"[{sizes['study']}, {len(LABELS)}] of 1, 0, -1 or {BLANK}", f"shape {self.study_labels.shape} or other values"
                )
            )
        for name in _SECRET:
            if len(np.unique(getattr(self, name))) != len(getattr(self, name)):
                raise errors.DataError(
                    errors.describe(
                        f"duplicate {name}", "cohort", "distinct keys", f"{len(getattr(self, name)) - len(np.unique(getattr(self, name)))} repeated"
                    )
                )
        pairs = set(zip(self.study_patient.tolist(), self.study_split.tolist(), strict=True))
        leaked = len(pairs) - len({patient for patient, _ in pairs})
        if leaked:
            raise errors.DataError(errors.describe("patients in two splits", "cohort", "every patient in one split", f"{leaked} in more"))

    def image_file(self, row: int) -> pathlib.Path:
        """Returns where image `row` lies; `DataError` for a path that leads out of its root."""
        return paths.inside(self.image_roots[self.image_source[row]], str(self.image_path[row]), called(row))

    def select(self, split: str | None = None, site: str | None = None) -> Selection:
        """Returns the studies (with at least one image) of a split and site, and their images; None means all.

        A known split that the cohort lacks gives an empty selection. Raises: UsageError: unknown split or site.
        """
        keep = np.ones(len(self.study_key), dtype=bool)
        if split is not None:
            if split not in SPLITS:
                raise errors.UsageError(errors.describe("split", "cohort", f"one of {', '.join(SPLITS)}", repr(split)) + errors.suggest(split, SPLITS))
            keep &= self.study_split == split
        if site is not None:
            sites = sorted(set(self.study_site.tolist()))
            if site not in sites:
                raise errors.UsageError(errors.describe("site", "cohort", f"one of its {len(sites)} sites", repr(site)) + errors.suggest(site, sites))
            keep &= self.study_site == site
        images = np.flatnonzero(keep[self.image_study]).astype(np.int32)
        return Selection(images, np.unique(self.image_study[images]).astype(np.int32))

    def digest(self) -> str:
        """Returns the SHA-256 of the content: structure, labels, texts, counts and recipe.

        Keys and `image_roots` are left out, so that two runs over the same archive agree although their secrets differ.
        """
        arrays: dict[str, np.ndarray] = {}
        for name in (*_IMAGES, *_STUDIES, "study_labels"):
            if name not in _SECRET:
                array = getattr(self, name)
                arrays[name] = _bytes(array.tolist()) if array.dtype == object else array
        arrays["text"] = _bytes(self.text)
        arrays |= {_FACT + name: _bytes(values.tolist()) if values.dtype == object else values for name, values in sorted(self.study_facts.items())}
        named = {"name": self.name, "synthetic": self.synthetic, "recipe": dict(self.recipe), "counts": self.counts}
        return digests.value_digest({**named, "arrays": digests.arrays_digest(arrays)})

    def save(self, directory: pathlib.Path) -> str:
        """Writes four Parquet tables and, last, `cohort.json`; returns the digest.

        Raises: StoreError: the directory cannot be written.
        """
        tables.write_table(directory / "images.parquet", {name: getattr(self, name) for name in _IMAGES})
        labels = {label: self.study_labels[:, column] for column, label in enumerate(LABELS)}
        facts = {_FACT + name: values for name, values in self.study_facts.items()}
        tables.write_table(directory / "studies.parquet", {name: getattr(self, name) for name in _STUDIES} | labels | facts)
        tables.write_table(directory / "patients.parquet", {"patient_key": self.patient_key})
        tables.write_table(directory / "texts.parquet", {"text_key": self.text_key, "text": self.text})
        digest = self.digest()
        recipe = {"recipe": dict(self.recipe), "recipe_sha256": digests.value_digest(dict(self.recipe))}
        files.write_json(directory / _RECORD, {"name": self.name, "synthetic": self.synthetic, **recipe, "counts": self.counts, "digest": digest})
        return digest

    def _check_index(self, name: str, size: int, lowest: int = 0) -> None:
        array = getattr(self, name)
        if array.dtype != np.int32 or (array.size and not lowest <= array.min() <= array.max() < size):
            raise errors.DataError(errors.describe(f"index {name}", "cohort", f"int32 in [{lowest}, {size})", f"{array.dtype} or out of range"))

    def _check_priors(self) -> None:
        self._check_index("image_prior", len(self.image_key), lowest=-1)
        images, patient = np.flatnonzero(self.image_prior >= 0), self.study_patient[self.image_study]
        priors = self.image_prior[images]
        wrong = np.count_nonzero((priors == images) | (patient[priors] != patient[images]))
        if wrong:
            raise errors.DataError(errors.describe("prior images", "cohort", "another image of the same patient", f"{wrong} that are none"))


def called(row: int) -> str:
    """Returns how errors call an image of the cohort."""
    return f"image {row + 1} of the cohort, counted from 1"


def load(directory: pathlib.Path, image_roots: pathlib.Path | Sequence[pathlib.Path]) -> Cohort:
    """Returns the cohort saved in `directory`, with its images under `image_roots`: one directory, or one per part in the order of `assemble`.

    Raises: StoreError: no finished cohort there, a damaged table, or tables that do not belong together.
    """
    record = files.read_object(directory / _RECORD, {"name": str, "synthetic": bool, "recipe": dict, "counts": dict, "digest": str})
    roots = (image_roots,) if isinstance(image_roots, str | pathlib.Path) else image_roots
    parts = {name: tables.read_table(directory / f"{name}.parquet") for name in ("images", "studies", "patients", "texts")}
    try:
        columns = {name: parts["images"][name] for name in _IMAGES} | {name: parts["studies"][name] for name in _STUDIES}
        columns |= {"patient_key": parts["patients"]["patient_key"], "text_key": parts["texts"]["text_key"]}
        for name in _SECRET:
            columns[name] = columns[name].astype(str)
        labels = np.stack([parts["studies"][label] for label in LABELS], axis=1).astype(np.int8)
        cohort = Cohort(
            record["name"],
            record["synthetic"],
            tuple(map(pathlib.Path, roots)),
            study_labels=labels,
            text=list(parts["texts"]["text"]),
            counts=record["counts"],
            recipe=record["recipe"],
            study_facts={name.removeprefix(_FACT): values for name, values in parts["studies"].items() if name.startswith(_FACT)},
            **columns,
        )
    except (errors.DataError, KeyError, TypeError, ValueError) as error:
        found = str(error) if isinstance(error, errors.DataError) else "missing columns or other values"
        raise errors.StoreError(errors.describe("cohort damaged", "workdir entry 'cohort'", "tables that fit together", found)) from error
    if cohort.digest() != record["digest"]:
        raise errors.StoreError(errors.describe("cohort changed", "workdir entry 'cohort'", f"digest {record['digest'][:12]}", cohort.digest()[:12]))
    return cohort


def _bytes(values: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)
