"""The results schema beyond recall: attacks, curves, who is at risk, certainty, open set, bits, label control; and the file of comparisons.

Every section is optional. One that is there has the fields below, and chance beside what it states.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.report.schema_rules import (
    COUNT,
    FLAG,
    LIST,
    NUMBER,
    OBJECT,
    SHARE,
    TEXT,
    each,
    estimate,
    fail,
    fields,
    interval,
    legible,
    metric,
    once_each,
    one_of,
    or_null,
    ordered_ends,
    present,
)  # fmt: skip

FAMILIES = ("raw", "normalisation", "assignment", "fusion", "realignment", "baseline")
_POOL = {"N": COUNT, "full": FLAG}
_AGREE = 1e-9  # how far a recall that a comparison repeats may lie from the results
_OWN = ("original", "none")  # heads that a model came with


def validate(result: Mapping[str, Any], where: str, explained: bool) -> None:
    """Checks every section of `SECTIONS` that a results document has; `explained`: it has warnings, so that values may be null.

    Raises: StoreError: names the JSON pointer of the first wrong entry, what is expected and what was found.
    """
    for name, rule in _PARTS.items():
        if name in result:
            rule(result[name], where, f"/{name}")
    attacks = result.get("attacks", [])
    for index, attack in enumerate(attacks):
        each(attack["metrics"], where, f"/attacks/{index}/metrics", lambda entry, at: metric(entry, where, at, explained))
        once_each(attack["metrics"], where, f"/attacks/{index}/metrics")
    labels = result["utility"].get("label_retrieval")
    if labels is not None:
        fields(labels, where, "/utility/label_retrieval", {"chance": or_null(SHARE)})
        for name in ("precision_at_10", "ndcg_at_10"):
            if name in labels:
                estimate(labels[name], where, f"/utility/label_retrieval/{name}", SHARE)


def validate_comparisons(document: Any, results: Sequence[Mapping[str, Any]], where: str = "results/comparisons.json") -> None:
    """Checks the file of comparisons between models, and that it speaks of `results`.

    Raises: StoreError: a wrong entry, or a recall that is not that of the results files.
    """
    fields(document, where, "", {"schema_version": one_of("1.0"), "datasets": LIST})
    legible(document, where, "")
    for index, entry in enumerate(document["datasets"]):
        at = f"/datasets/{index}"
        fields(entry, where, at, {"dataset": TEXT})
        if "order" in entry:
            _order(entry["order"], where, f"{at}/order")
            _same_values(entry["dataset"], entry["order"], results, where)


def _order(value: Any, where: str, at: str) -> None:
    rules = {"models": LIST, "values": LIST, "adjacent": LIST, "share_of_resamples_in_order": SHARE, "level": SHARE}
    fields(value, where, at, _POOL | rules)
    if len(value["models"]) != len(value["values"]):
        fail(f"{at}/values", where, "one value per model", f"{len(value['values'])} of {len(value['models'])}")
    ends = {"lower": TEXT, "upper": TEXT, "difference": NUMBER, "low": or_null(NUMBER), "high": or_null(NUMBER)}
    each(value["adjacent"], where, f"{at}/adjacent", lambda entry, spot: fields(entry, where, spot, ends))


def _same_values(dataset: str, order: Mapping[str, Any], results: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuses an order of other results: only plain cosine is compared, which every results file has."""
    if order.get("attack", "cosine") != "cosine":
        return
    for model, value in zip(order["models"], order["values"], strict=True):
        found = [_recall(one, order) for one in results if (one["model"]["name"], one["data"]["name"]) == (model, dataset) and one["model"]["head"] in _OWN]
        if not any(one is not None and abs(one - value) <= _AGREE for one in found):
            expected = f"the recall of {model!r} in its results file"
            raise errors.StoreError(errors.describe("comparison of other results", where, expected, "another; audit again"))


def _recall(result: Mapping[str, Any], pool: Mapping[str, Any]) -> float | None:
    wanted = {"name": "recall", "k": 1, "direction": "i2r", "stratum": "other_patient", "full": pool["full"]}
    for entry in result["metrics"]:
        if all(entry[name] == value for name, value in wanted.items()) and (pool["full"] or entry["N"] == pool["N"]):
            return None if entry["value"] is None else float(entry["value"])
    return None


def _attacks(value: Any, where: str, at: str) -> None:
    each(value, where, at, lambda entry, spot: _attack(entry, where, spot))
    if not value or value[0]["name"] != "cosine":
        fail(at, where, "cosine as the first attack", "another" if value else "none")
    if sum(entry["selected"] for entry in value) != 1:
        fail(at, where, "one selected attack", f"{sum(entry['selected'] for entry in value)}")


def _attack(entry: Any, where: str, at: str) -> None:
    fields(entry, where, at, {"name": TEXT, "family": one_of(*FAMILIES), "selected": FLAG, "metrics": LIST})
    optional = {"pairs": or_null(COUNT), "params": OBJECT, "passes": NUMBER, "released": FLAG, "gain": LIST, "calibration": or_null(OBJECT)}
    optional |= {"bank": or_null(one_of("inductive", "transductive")), "features": one_of("embeddings", "before_head", "labels"), "hubness": or_null(OBJECT)}
    present(entry, where, at, optional)
    if entry.get("calibration"):
        fields(entry["calibration"], where, f"{at}/calibration", {"mrr": SHARE, "n_queries": COUNT, "n_patients": COUNT})
    if entry.get("hubness"):
        fields(entry["hubness"], where, f"{at}/hubness", {"n10_skew": or_null(NUMBER), "max_n1": COUNT})
    for index, gain in enumerate(entry.get("gain", ())):
        fields(gain, where, f"{at}/gain/{index}", {"metric_ref": OBJECT, "difference": or_null(NUMBER), "ci": or_null(OBJECT)})
        interval(gain["ci"], where, f"{at}/gain/{index}/ci")


def _points(rules: Mapping[str, Any], name: str = "points", **about: Any) -> Callable[[Any, str, str], None]:
    """Returns the check of an object that has `about` and a list `name` of entries with `rules`; a rule that is a dict is an estimate's."""

    def checked(value: Any, where: str, at: str) -> None:
        fields(value, where, at, about)
        each(value.get(name, []), where, f"{at}/{name}", lambda entry, spot: _entry(entry, where, spot, rules))

    return checked


def _entry(entry: Any, where: str, at: str, rules: Mapping[str, Any]) -> None:
    fields(entry, where, at, {name: OBJECT if rule is _E else rule for name, rule in rules.items()})
    for name, rule in rules.items():
        if rule is _E:
            estimate(entry[name], where, f"{at}/{name}", SHARE)
    if {"low", "high"} <= set(rules):
        ordered_ends(entry, where, at)


def _list(rules: Mapping[str, Any]) -> Callable[[Any, str, str], None]:
    return lambda value, where, at: each(value, where, at, lambda entry, spot: _entry(entry, where, spot, rules))


_E = object()  # stands for an estimate with its interval
_ENDS = {"low": or_null(NUMBER), "high": or_null(NUMBER)}
_CURVE = _points({**_POOL, "value": or_null(SHARE), "chance": SHARE}, attack=TEXT)


def _curves(value: Any, where: str, at: str) -> None:
    each(value, where, at, lambda entry, spot: _CURVE(entry, where, spot))


def _risk(value: Any, where: str, at: str) -> None:
    def one(entry: Any, spot: str) -> None:
        fields(entry, where, spot, {**_POOL, "attack": TEXT})
        present(entry, where, spot, {"top1pct_share": SHARE, "top10pct_share": SHARE, "gini": NUMBER, "quantiles": OBJECT, "lorenz": OBJECT})
        for name in ("share_ge_009", "share_ge_050"):
            if name in entry:
                estimate(entry[name], where, f"{spot}/{name}", SHARE)
        if "lorenz" in entry:
            fields(entry["lorenz"], where, f"{spot}/lorenz", {"records": LIST, "hits": LIST})
            if len(entry["lorenz"]["records"]) != len(entry["lorenz"]["hits"]):
                fail(f"{spot}/lorenz", where, "as many records as hits", "fewer or more")

    each(value, where, at, one)


def _groups(value: Any, where: str, at: str) -> None:
    fields(value, where, at, {"rows": LIST, "suppressed": COUNT, "fewest_patients": COUNT})
    row = {"attribute": TEXT, "group": TEXT, "n_queries": COUNT, "n_patients": COUNT, "value": SHARE, "ci": or_null(OBJECT)}
    each(value["rows"], where, f"{at}/rows", lambda entry, spot: _entry(entry, where, spot, row))
    for index, entry in enumerate(value["rows"]):
        interval(entry["ci"], where, f"{at}/rows/{index}/ci")
        if entry["n_patients"] < value["fewest_patients"]:
            fail(f"{at}/rows/{index}", where, f"no group of fewer than {value['fewest_patients']} patients", f"{entry['n_patients']}")


def _anonymity(value: Any, where: str, at: str) -> None:
    for name in ("by_score", "by_text"):
        if name in value:
            fields(value[name], where, f"{at}/{name}", {"unique_share": SHARE, "median": NUMBER, "p99": NUMBER, "max": COUNT})


def _selective(value: Any, where: str, at: str) -> None:
    fields(value, where, at, {"chance": SHARE, "N": or_null(COUNT)})
    _points({"coverage": SHARE, "precision": or_null(SHARE)}, "curve")(value, where, at)
    _points({"coverage": SHARE, "precision": _E}, "at_coverage")(value, where, at)
    _points({"precision": SHARE, "coverage": _E}, "coverage_at_precision")(value, where, at)


def _open_set(value: Any, where: str, at: str) -> None:
    fields(value, where, at, {"resolution": NUMBER})
    _points({"fpir": SHARE, "tpir": _E, "resolved": FLAG})(value, where, at)
    _points({"fpir": SHARE, "tpir": SHARE}, "curve")(value, where, at)


def _verification(value: Any, where: str, at: str) -> None:
    fields(value, where, at, {"definition": TEXT, "points": LIST})
    _points({"fpr": SHARE, "tpr": _E, "ppv": LIST, "resolved": FLAG})(value, where, at)
    for index, point in enumerate(value["points"]):
        each(point["ppv"], where, f"{at}/points/{index}/ppv", lambda entry, spot: fields(entry, where, spot, {"N": COUNT, "value": or_null(SHARE)}))


def _bits(value: Any, where: str, at: str) -> None:
    for name, more in (("infonce", {}), ("rank_corrected", {"chance": NUMBER})):
        if name in value:
            fields(value[name], where, f"{at}/{name}", {"value": or_null(NUMBER), "ci": or_null(OBJECT), **more})
            interval(value[name]["ci"], where, f"{at}/{name}/ci")


_PARTS: dict[str, Callable[[Any, str, str], None]] = {
    "attacks": _attacks,
    "curve": _curves,
    "null": _points({**_POOL, "value": or_null(SHARE), "chance": SHARE, "z": or_null(NUMBER), "n_queries": COUNT}, stratum=TEXT),
    "right_patient": _list({**_POOL, "right_study": _E, "right_patient": _E, "wrong_patient": _E, "chance_study": SHARE, "chance_patient": SHARE}),
    "risk": _risk,
    "groups": _groups,
    "regression": _points({"name": TEXT, "odds_ratio": or_null(NUMBER), **_ENDS}, "terms", n_queries=COUNT, n_patients=COUNT),
    "anonymity": _anonymity,
    "selective": _selective,
    "open_set": _open_set,
    "verification": _verification,
    "bits": _bits,
    "matched": _list({"stratum": TEXT, **_POOL}),
    "tiered": _list({"N": COUNT, "value": _E, "chance": SHARE, "tiers": TEXT, "filled_share": SHARE}),
}
SECTIONS = tuple(_PARTS)
