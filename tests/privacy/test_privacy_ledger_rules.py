"""Ledgers whose chain fits and whose content is not right."""

import json

import ledger_plans
import pytest

from relink_jax import errors
from relink_jax.privacy import ledger


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / ledger.FILE_NAME
    ledger_plans.run(path)
    return path.read_text()


@pytest.fixture
def written(whole, tmp_path):
    path = tmp_path / ledger.FILE_NAME
    path.write_text(whole)
    return path


def noise(content, value):
    content["noise"].update(std_absolute=value, multiplier_vs_sensitivity=value, multiplier_vs_clip=value)


PLAN_EDITS = [
    ("ledger epsilon", lambda c: c["epsilon"].update(rdp=0.1)),
    ("ledger epsilon", lambda c: c["epsilon"].update(pld=0.1)),
    ("ledger epsilon", lambda c: c["epsilon"].update(infinite=True, rdp=None, pld=None)),
    ("ledger epsilon", lambda c: c["epsilon"]["at_delta"][2].update(rdp=0.01)),
    ("ledger epsilon", lambda c: c["epsilon"]["other_unit"]["rows"][0].update(pld=0.01)),
    ("ledger events", lambda c: noise(c, 20.0)),
    ("ledger events", lambda c: c["events"][0]["dp_event"]["event"]["event"].update(noise_multiplier=99.0)),
    ("ledger events", lambda c: c["events"].pop()),
    ("accountants can price", lambda c: noise(c, 1e-9)),
    ("ledger noise", lambda c: c["noise"].update(std_absolute=999.0)),
    ("ledger noise", lambda c: c["noise"].update(multiplier_vs_clip=999.0)),
    ("ledger sampling probability", lambda c: c["sampling"].update(q="1/400")),
    ("ledger sampling probability", lambda c: c["sampling"].update(expected=9)),
    ("ledger sampling probability", lambda c: c["dataset"].update(n_units_declared=80)),
    ("ledger number of units", lambda c: c["dataset"].update(n_records_declared=39)),
    ("ledger number of units", lambda c: c["dataset"].update(unit="pair")),
    ("ledger sensitivity", lambda c: c["objective"]["sensitivity"].update(add_remove=0.5)),
    ("ledger sensitivity", lambda c: c["objective"]["sensitivity"].update(zero_out=None)),
    ("ledger sensitivity", lambda c: c["clipping"].update(norm=2.0)),
    ("ledger sensitivity|ledger order", lambda c: c["objective"].update(decomposition="none")),
    ("ledger sensitivity", lambda c: c["objective"].update(decomposition="per_group")),
    ("ledger clipping", lambda c: c["clipping"].update(per="row")),
    ("ledger batch cap", lambda c: c["sampling"].update(overflow_delta=1e-9)),
    ("ledger target", lambda c: c["epsilon"].update(target=0.1)),
    ("ledger field dataset/name", lambda c: c["dataset"].update(name=["toy"])),
    ("ledger randomness", lambda c: c["noise"].update(seed_disclosed=True)),
    ("ledger randomness", lambda c: c["noise"].update(rng_mode="research")),
    ("ledger field sampling/q", lambda c: c["sampling"].update(q="one in ten")),
    ("ledger field events/./relation", lambda c: c["events"][0].update(relation="add_remove")),
    ("ledger field events", lambda c: c.update(events=[])),
    ("ledger field objective/anchors/private", lambda c: c["objective"]["anchors"].update(private=True)),
    ("ledger fields", lambda c: c.update(seeds=[1])),
    ("ledger statement", lambda c: c["objective"]["anchors"].update(provenance="a public corpus")),
    ("ledger statement", lambda c: c["selection"].update(tuned=False)),
]
RELEASE_EDITS = [
    ("ledger epsilon_all_runs", lambda c: c["epsilon_all_runs"].update(rdp=0.1)),
    ("ledger epsilon_all_runs", lambda c: c["epsilon_all_runs"].update(runs=2)),
    ("ledger statement", lambda c: c.update(statement=c["statement"].replace("zero-out", "add/remove"))),
    ("ledger order", lambda c: c["released"][0].update(step=3)),
    ("ledger order", lambda c: c.update(released=[])),
    ("ledger order", lambda c: c.update(self_test="not run")),
]


@pytest.mark.parametrize(("number", "message", "change"), [(0, *edit) for edit in PLAN_EDITS] + [(2, *edit) for edit in RELEASE_EDITS])
def test_an_inconsistent_ledger_is_refused_even_with_a_chain_that_fits(written, number, message, change):
    ledger_plans.rewrite(written, lambda entries: change(entries[number]["content"]))
    with pytest.raises(errors.StoreError, match=message) as caught:
        ledger.load(written)
    assert "\n" not in str(caught.value)


def test_a_pair_objective_states_its_cap_and_what_it_costs(tmp_path):
    path = tmp_path / ledger.FILE_NAME
    ledger_plans.run(path, ledger_plans.plan("per_pair", cap=30))
    whole = path.read_text()
    for message, change in (
        ("ledger batch cap", lambda c: c["sampling"].update(overflow_delta=0.0)),
        ("ledger batch cap", lambda c: c["sampling"].update(physical_cap=40)),
        ("ledger batch cap", lambda c: c["objective"].update(settings={})),
        ("ledger sensitivity", lambda c: c["objective"].update(id="logit_dp")),
        ("ledger truncation", lambda c: c["sampling"].update(truncation="uniform")),
    ):
        path.write_text(whole)
        ledger_plans.rewrite(path, lambda entries, change=change: change(entries[0]["content"]))
        with pytest.raises(errors.StoreError, match=message):
            ledger.load(path)


def nodes(value, path=()):
    """Yields the path of every field and entry of nested JSON, inner ones too."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from nodes(inner, (*path, key))


GONE = object()
WRONG = (True, -1, 0, 3, 0.5, 1e-300, 1e308, 10**400, float("nan"), "", "x", "1/0", [], [[]], {}, {"a": 1})


@pytest.mark.parametrize("values", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_any_field_gone_or_wrong_works_in_full_or_is_refused_in_one_sentence(written, whole, values):
    """Every field gone, none and with `values` of the wrong ones in turn, which all get their fields."""
    messages, loaded = [], 0
    for number, one in enumerate(json.loads(whole)["entries"]):
        for position, field in enumerate(nodes(one["content"])):
            for wrong in (GONE, None, *(WRONG[(position + shift) % len(WRONG)] for shift in range(values))):
                written.write_text(whole)

                def edit(entries, number=number, field=field, wrong=wrong):
                    parent = entries[number]["content"]
                    for key in field[:-1]:
                        parent = parent[key]
                    if wrong is GONE:
                        del parent[field[-1]]
                    else:
                        parent[field[-1]] = wrong

                ledger_plans.rewrite(written, edit)
                try:
                    found = ledger.load(written)
                except errors.StoreError as error:
                    messages.append(str(error))
                    continue
                loaded += 1
                assert found["statement"], (field, wrong)
                assert ledger.Ledger(written).document() == found, (field, wrong)
    assert not any("\n" in message for message in messages)
    assert len(messages) > 10 * loaded > 0
