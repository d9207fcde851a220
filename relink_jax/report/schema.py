"""The results schema: what a results file must hold before anything is printed from it.

One JSON file per (model, heads, dataset), named `<model>__<head>__<dataset>.json`. Rules: the required keys and types below,
no NaN or infinity, a null value only with a reason in `warnings`, and chance beside every value. Files may hold more keys
than required inside a section, never an unknown section. Sections beyond recall are checked in `schema_parts`.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from relink_jax import errors
from relink_jax.report import schema_parts
from relink_jax.report.schema_rules import (
    CI,
    COUNT,
    FLAG,
    LIST,
    NUMBER,
    OBJECT,
    SHARE,
    TEXT,
    Rule,
    check,
    each,
    fail,
    fields,
    interval,
    legible,
    metric,
    once_each,
    one_of,
    or_null,
    present,
)  # fmt: skip
from relink_jax.store import digests, files

VERSION = "1.0"
REQUIRED_SECTIONS = ("schema_version", "run", "data", "model", "protocol", "counts", "metrics", "utility", "warnings")
OPTIONAL_SECTIONS = ("content_sha256", "paired", "by_exposure", "checks", "files", "hubness", *schema_parts.SECTIONS)
PROTOCOL = ("same_patient", "label_policy", "ties", "truth", "attack", "precision")  # rules that results on one page share

_SECTIONS: dict[str, dict[str, Rule]] = {
    "run": {"id": TEXT, "created_utc": TEXT},
    "data": {"name": TEXT, "synthetic": FLAG},
    "model": {"name": TEXT, "head": TEXT, "dp": or_null(OBJECT)},
    "protocol": {"same_patient": one_of("exclude", "negative", "positive")},
    "counts": {},
    "utility": {"probe": LIST},
}
_IF_PRESENT: dict[str, dict[str, Rule]] = {
    "run": {"seed": COUNT, "precision": TEXT, "git_commit": TEXT},
    "data": {
        "external": FLAG, "split": TEXT, "text_field": TEXT, "n_images": COUNT, "n_studies": COUNT, "n_unique_texts": COUNT, "n_patients": COUNT,
        "exposure": or_null(OBJECT),
    },
    "model": {"weights_sha256": or_null(TEXT), "specialisation": or_null(COUNT), "ensemble": OBJECT},
    "protocol": {"ties": TEXT, "label_policy": TEXT},
    "utility": {"paired": LIST, "protocol": OBJECT, "label_retrieval": OBJECT},
}  # fmt: skip
_ENSEMBLE: dict[str, Rule] = {
    "rule": TEXT,
    "members": ("at least two names", lambda value: isinstance(value, list) and len(value) > 1 and all(map(TEXT[1], value))),
}
_DP: dict[str, Rule] = {"epsilon": or_null(NUMBER), "delta": NUMBER, "accountant": TEXT, "unit": TEXT}
_PROBE: dict[str, Rule] = {
    "features": TEXT, "macro_auroc": or_null(SHARE), "ci": or_null(OBJECT), "per_label": OBJECT, "undefined": LIST, "chance": SHARE,
}  # fmt: skip
_PAIRED: dict[str, Rule] = {"against": TEXT, "metric_ref": OBJECT, "difference": or_null(NUMBER), "ci": OBJECT}
_PAIRED_PROBE: dict[str, Rule] = {"features": TEXT, "against": TEXT, "difference": NUMBER, "ci": OBJECT}


def stem(result: Mapping[str, Any]) -> str:
    """Returns `<model>__<head>__<dataset>`, the name under which a results file is stored."""
    return f"{result['model']['name']}__{result['model']['head']}__{result['data']['name']}"


def validate(result: Any, where: str = "results") -> None:
    """Checks one results document against the schema.

    Raises: StoreError: names the JSON pointer of the first wrong entry, what is expected and what was found.
    """
    check(result, where, OBJECT, "")
    fields(result, where, "", dict.fromkeys(REQUIRED_SECTIONS, ("a section", lambda value: value is not None)))
    unknown = sorted(set(result) - set(REQUIRED_SECTIONS) - set(OPTIONAL_SECTIONS))
    if unknown:
        fail(f"/{unknown[0]}", where, "a section of the schema", f"an unknown one{errors.suggest(unknown[0], REQUIRED_SECTIONS + OPTIONAL_SECTIONS)}")
    check(result["schema_version"], where, one_of(VERSION), "/schema_version")
    legible(result, where, "")
    for section, rules in _SECTIONS.items():
        fields(result[section], where, f"/{section}", rules)
        present(result[section], where, f"/{section}", _IF_PRESENT.get(section, {}))
    if result["model"]["dp"] is not None:
        fields(result["model"]["dp"], where, "/model/dp", _DP)
    if "ensemble" in result["model"]:
        fields(result["model"]["ensemble"], where, "/model/ensemble", _ENSEMBLE)
    explained = bool(result["warnings"])
    each(result["warnings"], where, "/warnings", lambda entry, at: check(entry, where, TEXT, at))
    each(result["metrics"], where, "/metrics", lambda entry, at: metric(entry, where, at, explained))
    once_each(result["metrics"], where, "/metrics")
    each(result.get("by_exposure", []), where, "/by_exposure", lambda entry, at: metric(entry, where, at, explained))
    each(result.get("paired", []), where, "/paired", lambda entry, at: _paired(entry, where, at, _PAIRED))
    utility = result["utility"]
    for name in ("probe", "report_probe", "zero_shot"):
        each(utility.get(name, []), where, f"/utility/{name}", lambda entry, at: _probe(entry, where, at, fitted="probe" in at))
    each(utility.get("paired", []), where, "/utility/paired", lambda entry, at: _paired(entry, where, at, _PAIRED_PROBE))
    schema_parts.validate(result, where, explained)


def load_results(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Returns every results document of a directory, checked, in rising specialisation, then head, then dataset.

    Raises: StoreError: no results, unreadable JSON, a document outside the schema or changed after it was written, a file not named
        after its content, documents that were measured by different rules, or a model's heads missing on one dataset.
    """
    paths = sorted(pathlib.Path(directory).glob("*__*.json"))
    if not paths:
        raise errors.StoreError(errors.describe("results missing", "workdir entry 'results'", "at least one results file", "none; run the audit stage first"))
    documents = []
    for path in paths:
        document = files.read_json(path)
        validate(document, f"results file {path.name!r}")
        if stem(document) != path.stem:
            raise errors.StoreError(errors.describe("results file misnamed", f"workdir entry {path.name!r}", f"the name {stem(document)}.json", path.name))
        if not digests.intact(document):
            raise errors.StoreError(errors.describe("results edited", f"results file {path.name!r}", "the content its SHA-256 covers", "other content"))
        documents.append(document)
    _same_protocol(documents)
    _same_heads(documents)
    return ordered(documents)


def _same_protocol(documents: list[dict[str, Any]]) -> None:
    """Raises `StoreError` when results were measured by different rules and cannot stand in one table."""
    rules = {name: {stem(one): one["protocol"].get(name) for one in documents} for name in PROTOCOL}
    rules["probe"] = {stem(one): one["utility"].get("protocol") for one in documents if one["utility"]["probe"]}
    for name, found in rules.items():
        usual = next(iter(found.values()), None)
        other = next((one for one, value in found.items() if value != usual), None)
        if other is not None:
            raise errors.StoreError(
                errors.describe(
                    f"results of different protocols ({name})",
                    f"results file '{other}.json'",
                    repr(usual),
                    f"{found[other]!r}; audit all models and heads again",
                )
            )


def _same_heads(documents: list[dict[str, Any]]) -> None:
    """Raises `StoreError` when a model was audited with some heads on one dataset and not on another, so that a row would be missing."""
    names = {(one["model"]["name"], one["model"]["head"], one["data"]["name"]) for one in documents}
    for model, head, _ in sorted(names):
        for dataset in sorted({data for name, _, data in names if name == model}):
            if (model, head, dataset) not in names:
                expected = "results of the same heads on every dataset"
                raise errors.StoreError(errors.describe("results missing", f"results file '{model}__{head}__{dataset}.json'", expected, "nothing; audit again"))


def ordered(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns results sorted by specialisation (unknown last), model, head and dataset."""

    def key(result: dict[str, Any]) -> tuple[float, str, str, str]:
        rung = result["model"].get("specialisation")
        return (math.inf if rung is None else rung, result["model"]["name"], result["model"]["head"], result["data"]["name"])

    return sorted(results, key=key)


def _probe(entry: Any, where: str, at: str, fitted: bool) -> None:
    fields(entry, where, at, _PROBE | ({"l2": OBJECT} if fitted else {}))
    interval(entry["ci"], where, f"{at}/ci")
    for name, value in entry["per_label"].items():
        check(value, where, or_null(SHARE), f"{at}/per_label/{name}")


def _paired(entry: Any, where: str, at: str, rules: dict[str, Rule]) -> None:
    fields(entry, where, at, rules)
    fields(entry["ci"], where, f"{at}/ci", CI)
    interval(entry["ci"], where, f"{at}/ci")
    present(entry, where, at, {"attack": TEXT, "task": one_of("probe", "report_probe", "zero_shot"), "equivalence": OBJECT})
    if "equivalence" in entry:
        rules = {"margin": NUMBER, "equivalent": FLAG, "level": SHARE, "low": or_null(NUMBER), "high": or_null(NUMBER)}
        fields(entry["equivalence"], where, f"{at}/equivalence", rules)
