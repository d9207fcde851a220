"""The comparison of ledgers: golden files, what is ranked and what is refused, red flags, conversions and compositions.

The golden files come from `flat_ledgers.three()`; to write them anew: python tests/privacy/write_compare_golden.py.
"""

import json
import pathlib

import flat_ledgers
import pytest

from relink_jax import errors
from relink_jax.privacy import accounting, compare, compare_conversions, compare_flags, compare_text, compare_totals

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "accountants"
CHEAP = {"q": "1", "sigma": 20.0, "steps": 2}


def golden(**dropped):
    document = json.loads((GOLDENS / "comparison.json").read_text())
    return {**document, "runs": [{key: value for key, value in run.items() if key not in dropped} for run in document["runs"]]}


def same(found, expected, where="document"):
    """Fails unless two JSON values agree, floats to 3 parts in 1,000 (accountants of other versions round otherwise)."""
    assert isinstance(found, float | int) == isinstance(expected, float | int), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            same(found[index], value, f"{where}/{index}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=3e-3, abs=2e-3 if "trade_off" in where else 1e-12), where
    else:
        assert found == expected, where


def test_comparison_is_the_golden_document():
    found = json.loads(json.dumps(compare.comparison(flat_ledgers.three(), convert=True), allow_nan=False))
    same(found, golden(curves=True))


@pytest.mark.slow
def test_curves_are_the_golden_ones():
    found = json.loads(json.dumps(compare.comparison(flat_ledgers.three(), convert=True, curves=True), allow_nan=False))
    same(found, golden())
    curves = found["runs"][0]["curves"]
    assert curves["over_steps"][-1][1] == pytest.approx(found["runs"][0]["epsilon"]["own"]["rdp"])
    assert curves["noise_needed"]["pld"] < curves["noise_needed"]["rdp"] == pytest.approx(6.0, rel=1e-3)
    assert found["runs"][2]["curves"] is None


def test_text_is_the_golden_text_and_says_it_again():
    document = golden()
    assert compare_text.text(document) == (GOLDENS / "comparison.txt").read_text() == compare_text.text(golden())


def run(name, **changes):
    return flat_ledgers.run(name, **{**CHEAP, **changes})


def ranked(runs, **options):
    return compare.comparison(runs, **options)["ranking"]


def test_runs_of_one_promise_are_ranked_at_the_common_delta():
    strong, weak = run("strong", sigma=30.0, delta=1e-6), run("weak", delta=1e-4)
    found = compare.comparison([weak, strong, run("control", data_used=False), run("open", disclosed=True)])
    assert found["common_delta"] == 1e-6
    assert [row["name"] for row in found["ranking"]["rows"]] == ["strong", "weak", "open"]
    assert found["ranking"]["rows"][-1]["epsilon"] == compare.INFINITE
    assert weak.ledger["epsilon"]["rdp"] < found["ranking"]["rows"][1]["epsilon"]
    assert compare.comparison([weak, strong], delta=1e-3)["runs"][0]["epsilon"]["common"]["rdp"] < weak.ledger["epsilon"]["rdp"]
    with pytest.raises(errors.UsageError, match="delta"):
        compare.comparison([weak], delta=2.0)


@pytest.mark.parametrize(
    ("change", "named"), [({"unit": "pair"}, "pair (b) and patient (a)"), ({"relation": "replace_one"}, "replace_one (b) and zero_out (a)")]
)
def test_unlike_promises_are_refused_by_name_until_converted(change, named):
    runs = [run("a"), run("b", **change)]
    found = compare.comparison(runs)
    assert found["ranking"] is None
    assert named in found["not_ranked"]
    assert "No ranking" in compare_text.text(found)
    with pytest.raises(errors.UsageError, match="or --convert"):
        compare.rank(found["runs"])
    converted = compare.comparison(runs, convert=True, per_patient=2)
    assert [row["name"] for row in converted["ranking"]["rows"]] == ["a", "b"]
    assert converted["not_ranked"] == ""


def test_conversion_to_patients_needs_a_number_and_prices_the_group():
    pair = run("pair", unit="pair")
    with pytest.raises(errors.UsageError, match="--per_patient=K"):
        compare.comparison([run("a"), pair], convert=True)
    promise = compare_conversions.promises({"pair": pair.ledger}, 1e-5, 3)["pair"]
    full = accounting.price(flat_ledgers.mechanism("1", 20.0 / 3, 2), 1e-5).pld  # at q = 1 three pairs are one of three times the norm
    assert promise["pld"] == pytest.approx(full, abs=5e-3)
    assert promise["rdp"] is None
    assert "exact" in promise["label"]
    grouped = run("group", unit="pair", objective__decomposition="per_group", dataset__k_max=2)
    assert "2 pairs (bound" in compare_conversions.promises({"group": grouped.ledger}, 1e-5, None)["group"]["label"]


def test_conversions_say_what_is_exact_and_what_bounds():
    ledger = run("a").ledger
    rows = {row["to"]: row for row in compare_conversions.conversions(ledger, flat_ledgers.mechanism("1", 20.0, 2))}
    assert rows["epsilon, add/remove"]["value"] == pytest.approx(ledger["epsilon"]["rdp"])
    exact, generic = rows["epsilon, replace-one"], rows["epsilon, replace-one, generic"]
    assert exact["value"] == pytest.approx(accounting.price(flat_ledgers.mechanism("1", 10.0, 2), 1e-5).pld, abs=2e-3)
    assert (exact["kind"], generic["kind"]) == ("exact", "bound")
    assert exact["value"] < generic["value"]
    assert generic["delta"] > exact["delta"]
    assert 0.5 < rows["posterior from a prior of 50%"]["value"] == pytest.approx((1 + rows["membership advantage"]["value"]) / 2, abs=1e-5)
    for nothing in (run("c", data_used=False), run("s", disclosed=True)):
        assert compare_conversions.conversions(nothing.ledger, compare_conversions.mechanism_of(nothing.ledger)) == []


def test_the_best_of_random_trials_costs_more_the_more_there_are():
    mechanism = flat_ledgers.mechanism("1", 20.0, 2)
    found = {(row["distribution"], row["mean_trials"]): row["epsilon"] for row in compare_conversions.tuning(mechanism, 1e-5)}
    assert {name for name, _ in found} == {"geometric", "poisson", "logarithmic"}
    once = accounting.price(mechanism, 1e-5).rdp
    assert all(once < found[name, 10] < found[name, 20] for name, _ in found)
    assert compare_conversions.tuning(flat_ledgers.mechanism("1/4", 20.0, 2, "replace_one"), 1e-5) == []


FLAGS = [
    ("unsound_objective", "void", {"unbounded": True}),
    ("fixed_seed", "void", {"disclosed": True}),
    ("no_noise", "void", {"sigma": 0.0}),
    ("delta_too_large", "void", {"n_units": 10**5}),
    ("truncation_unpriced", "void", {"sampling__truncation": "uniform"}),
    ("audit_above_claim", "void", {"audit": {"method": "paired", "claim": 0.5, "lower_bound": 3.0}}),
    ("interrupted", "caution", {"steps__status": "interrupted"}),
    ("planned", "caution", {"steps__status": "planned"}),
    ("self_test", "caution", {"clipping__self_test": "not run"}),
    ("private_metrics", "caution", {"private_metrics_logged": True}),
    ("tuned", "caution", {"selection__tuned": True}),
    ("accountants_differ", "caution", {"epsilon__rdp": 1.0, "epsilon__pld": 0.4}),
]


@pytest.mark.parametrize(("code", "severity", "change"), FLAGS)
def test_red_flags(code, severity, change):
    found = {flag["code"]: flag["severity"] for flag in compare_flags.own(run("a", **change).ledger)}
    assert found[code] == severity
    assert compare_flags.own(run("a").ledger) == []


def test_an_audit_without_a_claim_or_below_it_raises_no_flag():
    for audit in ({"claim": None, "lower_bound": 3.0}, {"claim": 4.0, "lower_bound": 3.0}, None, []):
        assert compare_flags.own(run("a", audit=audit).ledger) == []


def test_an_unsound_run_is_infinite_everywhere():
    found = compare.comparison([run("in-batch", unbounded=True, noise__multiplier_vs_sensitivity=None)], curves=True)
    entry = found["runs"][0]
    assert entry["epsilon"]["own"]["rdp"] == entry["epsilon"]["common"]["pld"] == compare.INFINITE
    assert entry["curves"] is None
    assert "infinite" in compare_text.text(found)
    json.dumps(found, allow_nan=False)


def test_runs_on_the_same_people_are_composed_never_added():
    first, second = run("first"), run("second", dataset__name="other name")
    total = compare_totals.compositions({one.name: one.ledger for one in (first, second)}, 1e-5)[0]
    doubled = accounting.price(flat_ledgers.mechanism("1", 20.0, 4), 1e-5)
    assert (total["count"], total["group"]) == (2, "toy")
    assert [total["rdp"], total["pld"]] == pytest.approx([doubled.rdp, doubled.pld], rel=1e-3)
    assert total["pld"] < 2 * first.ledger["epsilon"]["pld"]


def test_composition_counts_earlier_runs_once_and_leaves_out_what_released_nothing():
    first = run("first")
    trace = {key: first.ledger[key] for key in ("run_id", "data_used", "events", "released")} | {"unit": "patient", "overflow_delta": 0.0}
    second = run("second", earlier=[trace, {**trace, "run_id": "quiet", "released": []}])
    for members in ([first, second], [second, run("third")]):
        total = compare_totals.compositions({one.name: one.ledger for one in members}, 1e-5)[0]
        assert total["count"] == (2 if first in members else 3)
    stopped = run("stopped", released=[], steps__status="interrupted")
    unnamed = run("unnamed", dataset__overlap_group="not named", dataset__name=None)
    alone = {one.name: one.ledger for one in (first, stopped, unnamed, run("control", data_used=False))}
    assert compare_totals.compositions(alone, 1e-5) == []
    mixed = compare_totals.compositions({"first": first.ledger, "pair": run("pair", unit="pair").ledger}, 1e-5)[0]
    assert mixed["rdp"] is None
    assert "pair, patient" in mixed["why_not"]


def test_many_runs_wrap_into_blocks():
    document = golden()
    many = {**document, "runs": [{**document["runs"][0], "name": f"run{k}"} for k in range(5)]}
    assert sum(line.startswith("privacy unit") for line in compare_text.text(many).splitlines()) == 2
