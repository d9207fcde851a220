"""Ledgers whose seal is right and whose content is not."""

import json

import pytest

from relink_jax import errors
from relink_jax.privacy import compare, ledger, training
from relink_jax.store import digests

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1, "dataset": {"name": "toy", "synthetic": True}}


@pytest.fixture
def written(toy, tmp_path):
    path = tmp_path / "dp" / ledger.FILE_NAME
    training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    return path


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(digests.sealed(content)))


EDITS = [
    ("ledger epsilon", lambda c: c["epsilon"].update(rdp=0.1)),
    ("ledger epsilon", lambda c: c["epsilon"].update(pld=0.1)),
    ("ledger epsilon", lambda c: c["epsilon"].update(infinite=True, rdp=None, pld=None)),
    ("ledger epsilon", lambda c: c["epsilon"]["at_delta"][2].update(rdp=0.01)),
    ("ledger epsilon_all_runs", lambda c: c["epsilon_all_runs"].update(rdp=0.1)),
    ("ledger epsilon_all_runs", lambda c: c["epsilon_all_runs"].update(runs=2)),
    ("ledger events", lambda c: c["noise"].update(std_absolute=20.0, multiplier_vs_sensitivity=20.0)),
    ("ledger events", lambda c: (c["steps"].update(executed=3, planned=3), c["released"][0].update(step=3))),
    ("ledger events", lambda c: c["events"][0]["dp_event"]["event"]["event"].update(noise_multiplier=99.0)),
    ("ledger events", lambda c: c["events"].pop()),
    ("accountants can price", lambda c: c["noise"].update(std_absolute=1e-9, multiplier_vs_sensitivity=1e-9)),
    ("ledger noise", lambda c: c["noise"].update(std_absolute=999.0)),
    ("ledger noise", lambda c: c["noise"].update(multiplier_vs_sensitivity=0.0)),
    ("ledger sampling probability", lambda c: c["sampling"].update(q="1/400")),
    ("ledger sampling probability", lambda c: c["sampling"].update(expected=9)),
    ("ledger sampling probability", lambda c: c["dataset"].update(n_units_declared=80)),
    ("ledger number of units", lambda c: c["dataset"].update(n_records_declared=39)),
    ("ledger number of units", lambda c: c["dataset"].update(unit="pair")),
    ("ledger sensitivity", lambda c: c["objective"]["sensitivity"].update(add_remove=0.5)),
    ("ledger sensitivity", lambda c: c["objective"]["sensitivity"].update(zero_out=0.5)),
    ("ledger sensitivity", lambda c: c["clipping"].update(norm=2.0)),
    ("ledger steps", lambda c: c["steps"].update(executed=3)),
    ("ledger steps", lambda c: c["steps"].update(executed=5)),
    ("ledger steps", lambda c: c["steps"].update(status="interrupted")),
    ("ledger steps", lambda c: c.update(released=[])),
    ("ledger steps", lambda c: c["released"][0].update(step=3)),
    ("ledger target", lambda c: c["epsilon"].update(target=0.1)),
    ("ledger field dataset/name", lambda c: c["dataset"].update(name=["toy"])),
    ("ledger steps", lambda c: c["clipping"].update(self_test="not run")),
    ("ledger randomness", lambda c: c["noise"].update(seed_disclosed=True)),
    ("ledger field sampling/q", lambda c: c["sampling"].update(q="one in ten")),
    ("ledger field objective/decomposition", lambda c: c["objective"].update(decomposition="none")),
    ("ledger field events/./relation", lambda c: c["events"][0].update(relation="add_remove")),
    ("ledger field events", lambda c: c.update(events=[])),
    ("ledger field statement", lambda c: c.pop("statement")),
    ("ledger statement", lambda c: c.update(statement=c["statement"].replace("0.34", "0.034"))),
    ("ledger statement", lambda c: c["objective"]["anchors"].update(provenance="a public corpus")),
    ("ledger statement", lambda c: c["selection"].update(tuned=False)),
    ("schema", lambda c: c.update(schema_version="1.0")),
]


@pytest.mark.parametrize(("message", "change"), EDITS)
def test_inconsistent_ledger_is_refused_even_with_a_new_seal(written, message, change):
    edit(written, change)
    with pytest.raises(errors.StoreError, match=message) as caught:
        ledger.load(written)
    assert "\n" not in str(caught.value)


def nodes(value, path=()):
    """Yields the path of every field and entry of nested JSON, inner ones too."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from nodes(inner, (*path, key))


GONE = object()
WRONG = (True, -1, 0, 3, 0.5, 1e-300, 1e308, 10**400, float("nan"), "", "x", "1/0", [], [[]], {}, {"a": 1})


def test_a_sealed_ledger_with_any_field_gone_or_wrong_works_in_full_or_is_refused_in_one_sentence(toy, tmp_path):
    path = tmp_path / "run" / ledger.FILE_NAME
    for changes in ({}, {"data": False}, {"iterations": 2}):
        training.train_heads(*toy.arguments, **{**SMALL, **changes}, ledger_path=path)
    other = tmp_path / "other" / ledger.FILE_NAME
    training.train_heads(*toy.arguments, **SMALL, ledger_path=other)
    whole, messages, loaded = path.read_text(), [], 0
    for position, field in enumerate(nodes(json.loads(whole))):
        if field == ("content_sha256",):
            continue
        for wrong in (GONE, None, *(WRONG[(position + shift) % len(WRONG)] for shift in range(4))):
            content = json.loads(whole)
            parent = content
            for key in field[:-1]:
                parent = parent[key]
            if wrong is GONE:
                del parent[field[-1]]
            else:
                parent[field[-1]] = wrong
            path.write_text(json.dumps(digests.sealed(content)))
            try:
                found = ledger.load(path)
            except errors.StoreError as error:
                messages.append(str(error))
                continue
            loaded += 1
            assert compare.compare([path, other]), (field, wrong)
            assert ledger.carry_earlier(found, path)["earlier"], (field, wrong)
    assert not any("\n" in message for message in messages)
    assert len(messages) > 10 * loaded > 0
