"""Every way to edit an append-only file breaks its chain, and the order of its entries is checked too."""

import copy
import json

import ledger_plans
import pytest
from ledger_plans import STATE

from relink_jax import errors
from relink_jax.privacy import ledger, ledger_chain


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / ledger.FILE_NAME
    plan = ledger_plans.plan()
    with ledger.opened(path, plan) as opened:
        opened.charge(2)
        opened.checkpoint(2, STATE)
    ledger_plans.run(path)
    ledger_plans.run(path, through=1)
    return json.loads(path.read_text())["entries"]


def leaves(value, path=()):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(inner, (*path, key))
    if not isinstance(value, dict | list):
        yield path


def changed(value):
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other" if value is None else f"{value}x"


def test_the_chain_is_intact_and_folds_into_runs(entries):
    runs = ledger_chain.runs(entries, "test")
    assert [(run.charged, run.resumed_from, run.released is not None) for run in runs] == [(4, [2], True), (1, [], False)]
    assert entries[0]["previous"] == ledger_chain.GENESIS


def test_an_edit_of_any_field_of_any_entry_is_seen(entries):
    count = 0
    for number, one in enumerate(entries):
        for path in leaves(one):
            edited = copy.deepcopy(entries)
            node = edited[number]
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = changed(node[path[-1]])
            with pytest.raises(errors.StoreError):
                ledger_chain.runs(edited, "test")
            count += 1
    assert count > 200


def test_an_edited_entry_that_is_hashed_again_alone_breaks_the_chain(entries):
    for number in range(len(entries) - 1):
        edited = copy.deepcopy(entries)
        one = edited[number]
        edited[number] = ledger_chain.entry(edited[:number], one["kind"], {**one["content"]}, "another time")
        with pytest.raises(errors.StoreError, match=f"ledger edited in entry {number + 1} of test"):
            ledger_chain.runs(edited, "test")


def test_dropped_swapped_and_repeated_entries_are_seen(entries):
    for number in range(len(entries) - 1):
        swapped = [*entries[:number], entries[number + 1], entries[number], *entries[number + 2 :]]
        for wrong in (entries[:number] + entries[number + 1 :], swapped, [*entries[: number + 1], *entries[number:]]):
            with pytest.raises(errors.StoreError, match="ledger edited"):
                ledger_chain.runs(wrong, "test")


def relinked(entries, *contents):
    chain = list(entries)
    for kind, content in contents:
        chain.append(ledger_chain.entry(chain, kind, content))
    return chain


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([("charged", {"through": 2}), ("charged", {"through": 1})], "more steps than charged before"),
        ([("charged", {"through": 2}), ("charged", {"through": 2})], "more steps than charged before"),
        ([("charged", {"through": 5})], "more steps than charged before"),
        ([("charged", {"through": True})], "more steps than charged before"),
        ([("charged", {"through": 2}), ("checkpoint", {"step": 3, "sha256": STATE})], "to the charged ones"),
        ([("charged", {"through": 2}), ("checkpoint", {"step": 2, "sha256": STATE}), ("checkpoint", {"step": 1, "sha256": STATE})], "to the charged ones"),
        ([("resumed", {"step": 0, "sha256": STATE})], "the last checkpoint"),
        ([("released", {"released": [], "self_test": "passed", "statement": "", "epsilon_all_runs": {}})], "all planned steps charged"),
        ([("charged", {"through": 2, "note": 1})], "charged entry with"),
        ([("forgotten", {})], "one of"),
        ([("audit", {"method": "x"})], "audit entry with"),
    ],
)
def test_entries_that_may_not_follow_are_refused_even_in_a_fitting_chain(entries, contents, message):
    with pytest.raises(errors.StoreError, match=message):
        ledger_chain.runs(relinked(entries[:1], *contents), "test")


def test_a_released_run_takes_audits_and_nothing_else(entries):
    ended = entries[: [one["kind"] for one in entries].index("released") + 1]
    for kind, content in (("charged", {"through": 4}), ("checkpoint", {"step": 4, "sha256": STATE})):
        with pytest.raises(errors.StoreError, match="an audit or a new run"):
            ledger_chain.runs(relinked(ended, (kind, content)), "test")
    with pytest.raises(errors.StoreError, match="a planned entry first"):
        ledger_chain.runs(relinked([], ("charged", {"through": 1})), "test")
