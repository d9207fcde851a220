"""The results schema: a sound file passes, each kind of damage is named, and files load in the page's order."""

import copy
import json

import pytest
import report_fixtures

from relink_jax import errors
from relink_jax.report import schema


@pytest.fixture(scope="module")
def sound():
    return report_fixtures.results()


def put(document, pointer, value):
    parts = pointer.strip("/").split("/")
    for part in parts[:-1]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    if value is KeyError:
        del document[parts[-1]]
    else:
        document[int(parts[-1]) if isinstance(document, list) else parts[-1]] = value


def test_fixture_files_pass(sound):
    for document in sound:
        schema.validate(document)


@pytest.mark.parametrize(
    ("pointer", "value", "message"),
    [
        ("/metrics", KeyError, "at /metrics in f: expected a section, found nothing"),
        ("/schema_version", "2.0", "expected one of 1.0"),
        ("/surprise", {}, "unknown one"),
        ("/data/synthetic", "yes", "at /data/synthetic in f: expected true or false, found a value of type str"),
        ("/data/n_patients", -1, "expected a count, found -1"),
        ("/model/name", "", "at /model/name"),
        ("/model/dp", {"epsilon": 0.3}, "at /model/dp/delta in f: expected a finite number, found nothing"),
        ("/protocol/same_patient", "maybe", "expected one of exclude, negative, positive"),
        ("/model/ensemble", {"rule": "mean", "members": ["a"]}, "at /model/ensemble/members in f: expected at least two names"),
        ("/model/ensemble", {"members": ["a", "b"]}, "at /model/ensemble/rule in f: expected text, found nothing"),
        ("/metrics/0/value", float("nan"), "at /metrics/0/value in f: expected a finite number or null, found nan"),
        ("/metrics/0/value", float("inf"), "found inf"),
        ("/metrics/0/value", 1.5, "at /metrics/0/value in f: expected a number in"),
        ("/metrics/0/chance", None, "expected chance beside every value"),
        ("/metrics/0/k", None, "expected k and N of a recall"),
        ("/metrics/0/N", True, "at /metrics/0/N"),
        ("/metrics/0/direction", "both", "expected one of i2r, r2i"),
        ("/metrics/0/ci/low", 0.99, "expected low <= high"),
        ("/metrics/0/ci/method", KeyError, "at /metrics/0/ci/method in f: expected text, found nothing"),
        ("/utility/probe/0/chance", KeyError, "at /utility/probe/0/chance"),
        ("/utility/probe/0/per_label/Edema", 2.0, "at /utility/probe/0/per_label/Edema"),
        ("/warnings", [3], "at /warnings/0"),
    ],
)
def test_each_violation_is_named(sound, pointer, value, message):
    document = copy.deepcopy(sound[0])
    put(document, pointer, value)
    with pytest.raises(errors.StoreError) as caught:
        schema.validate(document, "f")
    assert message in str(caught.value)


def test_null_needs_a_reason_and_each_metric_comes_once(sound):
    document = copy.deepcopy(sound[0])
    document["metrics"][0]["value"] = None
    schema.validate(document)
    document["warnings"] = []
    with pytest.raises(errors.StoreError, match="a reason in warnings"):
        schema.validate(document)
    twice = copy.deepcopy(sound[0])
    twice["metrics"].append(twice["metrics"][2])
    with pytest.raises(errors.StoreError, match="each metric once"):
        schema.validate(twice)


def test_load_orders_by_specialisation_whatever_the_file_order(tmp_path):
    report_fixtures.save(tmp_path)
    loaded = [(one["model"]["name"], one["model"]["head"]) for one in schema.load_results(tmp_path)]
    models = [name for name, _, _ in report_fixtures.LADDER]
    assert list(dict.fromkeys(name for name, _ in loaded)) == models
    assert len(loaded) == 14
    assert loaded == sorted(loaded)


def test_damaged_results_are_refused(tmp_path):
    with pytest.raises(errors.StoreError, match="run the audit stage first"):
        schema.load_results(tmp_path)
    documents = report_fixtures.save(tmp_path)
    path = tmp_path / f"{schema.stem(documents[0])}.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(errors.StoreError, match="expected valid JSON"):
        schema.load_results(tmp_path)
    moved = json.loads(whole)
    moved["data"]["name"] = "elsewhere"
    path.write_text(json.dumps(moved))
    with pytest.raises(errors.StoreError, match="misnamed"):
        schema.load_results(tmp_path)
