"""The results schema: what a results file must hold before anything is printed from it.

One JSON file per (model, heads, dataset), named `<model>__<head>__<dataset>.json`. Rules: the required keys and types below,
no NaN or infinity, a null value only with a reason in `warnings`, and chance beside every value. Files may hold more keys
than required inside a section, never an unknown section.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from relink_jax import errors
from relink_jax.store import digests, files

VERSION = "1.0"
METRICS = ("recall", "mrr", "mean_rank", "auc_within_query")
DIRECTIONS = ("i2r", "r2i")
REQUIRED_SECTIONS = ("schema_version", "run", "data", "model", "protocol", "counts", "metrics", "utility", "warnings")
PROTOCOL = ("same_patient", "label_policy", "ties", "truth", "attack", "precision")  # rules that results on one page share
OPTIONAL_SECTIONS = ("content_sha256", "paired", "by_exposure", "checks", "files", "risk", "open_set", "verification", "selective", "bits", "hubness")

Rule = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


TEXT: Rule = ("text", lambda value: isinstance(value, str) and bool(value))
COUNT: Rule = ("a count", lambda value: _is_int(value) and value >= 0)
FLAG: Rule = ("true or false", lambda value: isinstance(value, bool))
NUMBER: Rule = ("a finite number", _is_number)
SHARE: Rule = ("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
OBJECT: Rule = ("an object", lambda value: isinstance(value, dict))
LIST: Rule = ("a list", lambda value: isinstance(value, list))


def _or_null(rule: Rule) -> Rule:
    return (f"{rule[0]} or null", lambda value: value is None or rule[1](value))


def _one_of(*known: str) -> Rule:
    return (f"one of {', '.join(known)}", lambda value: value in known)


_SECTIONS: dict[str, dict[str, Rule]] = {
    "run": {"id": TEXT, "created_utc": TEXT},
    "data": {"name": TEXT, "synthetic": FLAG},
    "model": {"name": TEXT, "head": TEXT, "dp": _or_null(OBJECT)},
    "protocol": {"same_patient": _one_of("exclude", "negative", "positive")},
    "counts": {},
    "utility": {"probe": LIST},
}
_IF_PRESENT: dict[str, dict[str, Rule]] = {
    "run": {"seed": COUNT, "precision": TEXT, "git_commit": TEXT},
    "data": {
        "external": FLAG, "split": TEXT, "text_field": TEXT, "n_images": COUNT, "n_studies": COUNT, "n_unique_texts": COUNT, "n_patients": COUNT,
        "exposure": _or_null(OBJECT),
    },
    "model": {"weights_sha256": _or_null(TEXT), "specialisation": _or_null(COUNT), "ensemble": OBJECT},
    "protocol": {"ties": TEXT, "label_policy": TEXT},
    "utility": {"paired": LIST, "protocol": OBJECT},
}  # fmt: skip
_ENSEMBLE: dict[str, Rule] = {
    "rule": TEXT,
    "members": ("at least two names", lambda value: isinstance(value, list) and len(value) > 1 and all(map(TEXT[1], value))),
}
_DP: dict[str, Rule] = {"epsilon": _or_null(NUMBER), "delta": NUMBER, "accountant": TEXT, "unit": TEXT}
_CI: dict[str, Rule] = {"method": TEXT, "level": SHARE, "low": _or_null(NUMBER), "high": _or_null(NUMBER), "B": COUNT}
_METRIC: dict[str, Rule] = {
    "name": _one_of(*METRICS), "k": _or_null(COUNT), "N": _or_null(COUNT), "full": FLAG, "direction": _one_of(*DIRECTIONS), "stratum": TEXT,
    "value": _or_null(NUMBER), "chance": _or_null(NUMBER), "lift": _or_null(NUMBER), "log2_lift": _or_null(NUMBER), "optimistic": _or_null(NUMBER),
    "pessimistic": _or_null(NUMBER), "n_queries": COUNT, "n_eligible_share": _or_null(SHARE), "n_patients": COUNT, "ci": _or_null(OBJECT),
    "mc_check": _or_null(OBJECT),
}  # fmt: skip
_PROBE: dict[str, Rule] = {
    "features": TEXT, "macro_auroc": _or_null(SHARE), "ci": _or_null(OBJECT), "per_label": OBJECT, "undefined": LIST, "l2": OBJECT, "chance": SHARE,
}  # fmt: skip
_PAIRED: dict[str, Rule] = {"against": TEXT, "metric_ref": OBJECT, "difference": _or_null(NUMBER), "ci": OBJECT}
_PAIRED_PROBE: dict[str, Rule] = {"features": TEXT, "against": TEXT, "difference": NUMBER, "ci": OBJECT}


def stem(result: Mapping[str, Any]) -> str:
    """Returns `<model>__<head>__<dataset>`, the name under which a results file is stored."""
    return f"{result['model']['name']}__{result['model']['head']}__{result['data']['name']}"


def validate(result: Any, where: str = "results") -> None:
    """Checks one results document against the schema.

    Raises: StoreError: names the JSON pointer of the first wrong entry, what is expected and what was found.
    """
    _check(result, where, OBJECT, "")
    _fields(result, where, "", dict.fromkeys(REQUIRED_SECTIONS, ("a section", lambda value: value is not None)))
    unknown = sorted(set(result) - set(REQUIRED_SECTIONS) - set(OPTIONAL_SECTIONS))
    if unknown:
        _fail(f"/{unknown[0]}", where, "a section of the schema", f"an unknown one{errors.suggest(unknown[0], REQUIRED_SECTIONS + OPTIONAL_SECTIONS)}")
    _check(result["schema_version"], where, _one_of(VERSION), "/schema_version")
    _finite(result, where, "")
    for section, rules in _SECTIONS.items():
        _fields(result[section], where, f"/{section}", rules)
        present = {name: rule for name, rule in _IF_PRESENT.get(section, {}).items() if name in result[section]}
        _fields(result[section], where, f"/{section}", present)
    if result["model"]["dp"] is not None:
        _fields(result["model"]["dp"], where, "/model/dp", _DP)
    if "ensemble" in result["model"]:
        _fields(result["model"]["ensemble"], where, "/model/ensemble", _ENSEMBLE)
    _list(result["warnings"], where, "/warnings", lambda entry, at: _check(entry, where, TEXT, at))
    _list(result["metrics"], where, "/metrics", lambda entry, at: _metric(entry, where, at, bool(result["warnings"])))
    _list(result["utility"]["probe"], where, "/utility/probe", lambda entry, at: _probe(entry, where, at))
    _list(result["utility"].get("paired", []), where, "/utility/paired", lambda entry, at: _paired(entry, where, at, _PAIRED_PROBE))
    _list(result.get("by_exposure", []), where, "/by_exposure", lambda entry, at: _metric(entry, where, at, bool(result["warnings"])))
    _list(result.get("paired", []), where, "/paired", lambda entry, at: _paired(entry, where, at, _PAIRED))
    keys = [tuple(entry[name] for name in ("name", "k", "N", "full", "direction", "stratum")) for entry in result["metrics"]]
    twice = next((index for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        _fail(f"/metrics/{twice}", where, "each metric once", f"{keys[twice]} again")


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


def _metric(entry: Any, where: str, at: str, explained: bool) -> None:
    _fields(entry, where, at, _METRIC)
    if entry["name"] == "recall" and (entry["k"] is None or entry["N"] is None):
        _fail(at, where, "k and N of a recall", "null")
    if entry["value"] is None:
        if not explained:
            _fail(f"{at}/value", where, "a reason in warnings when a value is null", "no warning")
        return
    if entry["chance"] is None:
        _fail(f"{at}/chance", where, "chance beside every value", "null")
    if entry["name"] != "mean_rank":
        for name in ("value", "chance"):
            _check(entry[name], where, SHARE, f"{at}/{name}")
    _interval(entry["ci"], where, f"{at}/ci")


def _probe(entry: Any, where: str, at: str) -> None:
    _fields(entry, where, at, _PROBE)
    _interval(entry["ci"], where, f"{at}/ci")
    for name, value in entry["per_label"].items():
        _check(value, where, _or_null(SHARE), f"{at}/per_label/{name}")


def _paired(entry: Any, where: str, at: str, rules: dict[str, Rule]) -> None:
    _fields(entry, where, at, rules)
    _interval(entry["ci"], where, f"{at}/ci")


def _interval(ci: Any, where: str, at: str) -> None:
    if ci is None:
        return
    _fields(ci, where, at, _CI)
    if ci["low"] is not None and ci["high"] is not None and ci["low"] > ci["high"]:
        _fail(at, where, "low <= high", f"{ci['low']:g} > {ci['high']:g}")


def _fields(value: Any, where: str, at: str, rules: Mapping[str, Rule]) -> None:
    _check(value, where, OBJECT, at)
    for name, rule in rules.items():
        if name not in value:
            _fail(f"{at}/{name}", where, rule[0], "nothing")
        _check(value[name], where, rule, f"{at}/{name}")


def _list(value: Any, where: str, at: str, check: Callable[[Any, str], None]) -> None:
    _check(value, where, LIST, at)
    for index, entry in enumerate(value):
        check(entry, f"{at}/{index}")


def _finite(value: Any, where: str, at: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        _fail(at, where, "a finite number or null", str(value))
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in items:
        _finite(entry, where, f"{at}/{name}")


def _check(value: Any, where: str, rule: Rule, at: str) -> None:
    if not rule[1](value):
        _fail(at, where, rule[0], f"{value!r}"[:60] if _is_number(value) or value is None else f"a value of type {type(value).__name__}")


def _fail(at: str, where: str, expected: str, found: str) -> None:
    raise errors.StoreError(errors.describe(f"schema violated at {at or '/'}", where, expected, found))
