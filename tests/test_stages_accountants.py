"""`relink accountants`: subcommands, flags, files and refusals, from ledgers that this test writes."""

import fractions
import json
import types

import pytest

from relink_jax import cli
from relink_jax.privacy import accounting, ledger
from relink_jax.privacy.ledger import Ledger


def objective():
    bounds = {"add_remove": 1.0, "zero_out": 1.0, "replace_one": 2.0}
    return types.SimpleNamespace(
        name="anchor_infonce",
        decomposition="per_record",
        derivation="one clipped gradient per record",
        settings=lambda: {"temperature": 0.07},
        sensitivity=lambda relation, norm: bounds[relation] * norm,
    )


def write(path, unit="patient", sigma=20.0):
    """Writes the ledger of a released run of two full-batch steps over 40 units."""
    mechanism = accounting.Mechanism(fractions.Fraction(1), sigma, 1.0, 2, "zero_out")
    bank = types.SimpleNamespace(sha256="a" * 64, features=[0] * 20, provenance="synthetic texts of a test", licence="")
    plan = ledger.planned(
        objective=objective(),
        bank=bank,
        mechanism=mechanism,
        unit=unit,
        n_units=40,
        n_records=40,
        l2_norm_clip=1.0,
        implementation="closed_form",
        expected_batch_size=40,
        physical_cap=40,
        target_epsilon=None,
        delta=1e-4,
        optimizer={"name": "sgd", "learning_rate": 0.1},
        n_parameters=100,
        initial_heads_sha256="b" * 64,
        device={"kind": "cpu", "count": 1, "processes": 1},
        dataset={"name": "toy"},
        selection={"tuned": None, "n_trials": None, "public_tuning_data": None},
    )
    written = Ledger(path / ledger.FILE_NAME)
    written.begin(plan)
    written.charge(2)
    written.release([{"artifact": "final heads", "sha256": "c" * 64, "step": 2}], "passed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    write(root / "dp")
    write(root / "more", sigma=30.0)
    write(root / "pair", unit="pair")
    return root


def relink(*words):
    return cli.main(["accountants", *map(str, words)])


def test_compare_prints_ranks_and_writes_json_and_page(runs, tmp_path, capsys):
    assert relink("compare", runs / "dp", runs / "more", f"--json={tmp_path / 'a.json'}", f"--page={tmp_path / 'a.html'}", "--rank") == 0
    out = capsys.readouterr().out
    document = json.loads((tmp_path / "a.json").read_text())
    assert [row["name"].rpartition("/")[2] for row in document["ranking"]["rows"]] == ["more", "dp"]
    assert "Strongest promise first" in out
    assert "Runs that touch the same people" in out
    assert str(runs) not in out
    assert len(document["runs"][0]["curves"]["trade_off"]) > 20
    assert "In plain words" in (tmp_path / "a.html").read_text()


def test_runs_without_the_word_and_a_directory_of_runs(runs, capsys):
    assert relink(runs, runs / "dp" / ledger.FILE_NAME) == 0
    out = capsys.readouterr().out
    assert "/dp" in out
    assert "/pair" in out
    assert "No ranking" in out
    assert out.count("0.00") > 0


def test_unlike_units_rank_only_converted(runs, tmp_path, capsys):
    both = (runs / "dp", runs / "pair")
    assert relink("compare", *both, "--rank") == 2
    message = capsys.readouterr().err
    assert "pair (" in message
    assert "and patient (" in message
    assert relink("compare", *both, "--rank", "--convert") == 2
    assert "--per_patient=K" in capsys.readouterr().err
    assert relink("compare", *both, "--rank", "--convert", "--per_patient=2", f"--json={tmp_path / 'b.json'}") == 0
    rows = json.loads((tmp_path / "b.json").read_text())["ranking"]["rows"]
    assert [row["name"].rpartition("/")[2] for row in rows] == ["dp", "pair"]
    assert rows[1]["epsilon"] > 1.9 * rows[0]["epsilon"]


def test_plan_prints_and_writes(tmp_path, capsys):
    given = ("--units=166667", "--delta=6e-6", "--batch=1024", "--iterations=814", "--noise_multiplier=2", "--table=none")
    assert relink("plan", *given, f"--json={tmp_path / 'plan.json'}") == 0
    assert "0.37758" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["plan"]["pld"] == pytest.approx(0.34116, abs=2e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "runs missing"),
        (("plam",), 2, "did you mean 'plan'"),
        (("plan", "--delta=1e-6"), 2, "no --units"),
        (("plan", "x", "--units=5", "--delta=0.1"), 2, "extra words"),
        (("plan", "--units=5.5", "--delta=0.1"), 2, "whole number"),
        (("plan", "--units=5", "--delta=abc"), 2, "positive number"),
        (("plan", "--units=5", "--delta=0.1", "--page=x.html"), 2, "flag of another subcommand"),
        (("plan", "--units=5", "--delta=0.1", "--sigma=1"), 2, "unknown flag"),
        (("compare", "no/such/ledger.json"), 74, "missing"),
        (("compare", "x.json", "--epsilon=1"), 2, "flag of another subcommand"),
        (("compare", "x.json", "--per_patient=2"), 2, "--convert beside it"),
        (("audit", "x"), 2, "extra words"),
    ],
)
def test_wrong_lines_are_one_sentence(words, code, message, capsys):
    assert relink(*words) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_help_teaches(capsys):
    assert relink("--help") == 0
    out = capsys.readouterr().out
    for taught in ("--convert", "plan --units=65379", "exactly three", "audit: attacks"):
        assert taught in out


@pytest.mark.parametrize("passed", [True, False])
def test_audit_prints_the_gate_and_fails_with_it(passed, monkeypatch, tmp_path, capsys):
    gate = pytest.importorskip("relink_jax.privacy.empirical.gate")
    rows = [gate.Row("null scores", "at most 5% above 0", "0 of 40", True), gate.Row("one step", "epsilon 1", "at least 2", passed)]
    monkeypatch.setattr(gate, "gate", lambda seed, runs: rows)
    assert relink("audit", "--seed=3", f"--json={tmp_path / 'gate.json'}") == (0 if passed else 70)
    shown = capsys.readouterr()
    assert "null scores" in (shown.out if passed else shown.err)
    assert (tmp_path / "gate.json").exists() is passed
