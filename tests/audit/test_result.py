"""Properties of whole audits, the results files, and their recomputation without a device."""

import json
import stat
import subprocess
import sys

import arrays
import numpy as np
import pyarrow.parquet as pq
import pytest

import relink_jax
from relink_jax import errors
from relink_jax.audit import comparison, metrics, monte_carlo, result
from relink_jax.retrieval.counted import StratumCounts
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files

OPTIONS = {"bootstrap_replicates": 200}


@pytest.fixture(scope="module")
def audited():
    return relink_jax.audit(**arrays.cohort(), **OPTIONS, mc_repeats=200)


def test_constant_embeddings_give_chance_everywhere():
    given = arrays.cohort()
    given["images"], given["texts"] = np.full((80, 8), 0.3), np.full((60, 8), -0.7)
    flat = relink_jax.audit(**given, **OPTIONS)
    for entry in flat.metrics:
        assert entry["value"] == pytest.approx(entry["chance"], rel=1e-12)
        if entry["name"] == "recall" and not entry["full"]:
            assert entry["chance"] == entry["k"] / entry["N"]


def test_perfect_embeddings_are_linked():
    given = arrays.cohort(noise=0)
    given["texts"] = np.random.default_rng(1).standard_normal((60, 8))
    order = {study: row for row, study in enumerate(given["text_study"])}
    given["images"] = given["texts"][[order[study] for study in given["image_study"]]]
    found = relink_jax.audit(**given, **OPTIONS)
    assert found.recall(1) == found.recall(1, 10, direction="r2i") == 1
    assert found.metric("recall", k=1)["ci"]["method"] == "exact_extreme"
    assert found.metric("recall", k=1)["ci"]["low"] < 0.95


def test_entries_have_chance_bounds_and_intervals(audited):
    assert {entry["stratum"] for entry in audited.metrics} == {"other_patient", "label_matched", "other_patient@label_matched"}
    assert {entry["direction"] for entry in audited.metrics} == {"i2r", "r2i"}
    for entry in audited.metrics:
        ordered = [entry["pessimistic"], entry["value"], entry["optimistic"]]
        assert ordered == sorted(ordered, reverse=entry["name"] == "mean_rank")
        assert entry["ci"]["low"] <= entry["value"] <= entry["ci"]["high"]
        assert 2 <= entry["n_patients"] <= entry["n_queries"]
        if entry["lift"]:
            assert entry["lift"] == pytest.approx(entry["value"] / entry["chance"])
            assert 2 ** entry["log2_lift"] == pytest.approx(entry["lift"])
            assert entry["ci"]["lift_low"] <= entry["lift"] <= entry["ci"]["lift_high"]
    assert audited.recall(1, 10) < audited.recall(5, 10) < audited.recall(10, 10) == 1
    same = [audited.metric(name, k=1, pool_size=10, stratum=name2) for name, name2 in (("recall", "label_matched"), ("recall", "other_patient@label_matched"))]
    assert same[0]["n_queries"] == same[1]["n_queries"] < audited.metric("recall", k=1, pool_size=10)["n_queries"]


def test_monte_carlo_agrees_and_would_notice(audited):
    checked = [entry["mc_check"] for entry in audited.metrics if entry["name"] == "recall" and not entry["full"]]
    assert checked
    assert all(check["passed"] and check["repeats"] == 200 for check in checked)
    counted = StratumCounts(np.full(300, 40), np.full(300, 6), np.full(300, 3))
    sampled = monte_carlo.recall(counted, 12, 2, 300, np.random.default_rng(0))
    assert abs(monte_carlo.z_score(sampled, np.full(300, sampled + 0.02), 300)) > 4


def test_shuffled_truth_is_within_noise_of_chance():
    given = arrays.cohort(n_studies=300, n_images=300, n_patients=150)
    given["image_study"] = np.random.default_rng(0).permutation(given["text_study"])
    entry = relink_jax.audit(**given, **OPTIONS).metric("recall", k=1, pool_size=10)
    assert abs(entry["value"] - 0.1) < 4 * entry["ci"]["se"]


def test_mesh_and_tiles_do_not_change_a_small_integer_audit():
    given = {**arrays.cohort(), "normalize": False}
    given["images"], given["texts"] = np.rint(2 * given["images"]), np.rint(2 * given["texts"])
    given["images"][np.abs(given["images"]).sum(1) == 0] = 1
    given["texts"][np.abs(given["texts"]).sum(1) == 0] = 1
    first = relink_jax.audit(**given, **OPTIONS, mesh=meshes.make_mesh(1))
    second = relink_jax.audit(**given, **OPTIONS, mesh=meshes.make_mesh(8), query_block=16, tile=32)
    assert first.metrics == second.metrics


def test_saved_files_hold_everything_and_recompute_exactly(audited, tmp_path):
    path = audited.save(tmp_path / "results" / "m__original__d.json", run={"id": "r1"}, model={"name": "m", "specialisation": 2}, data={"name": "d"})
    assert path.name == "m__original__d.json"
    stored = files.read_json(path)
    assert list(stored)[:9] == ["schema_version", "run", "data", "model", "protocol", "counts", "metrics", "paired", "by_exposure"]
    assert stored["data"]["n_images"] == 80
    assert stored["model"]["dp"] is None
    assert "NaN" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
    assert set(rows[0]) == {"query_key", "patient_key", "direction", "stratum", "M", "g", "t", "own_score", "top_key", "top_score"}
    assert rows[0]["own_score"] == float(audited.own_score["i2r"][0])
    assert rows[0]["top_key"] == [str(audited.candidate_key["i2r"][number]) for number in audited.top["i2r"][0][0]]
    assert rows[0]["top_score"] == sorted(rows[0]["top_score"], reverse=True) == audited.top["i2r"][1][0].tolist()
    assert {row["own_score"] is None for row in rows if row["stratum"] == "label_matched"} == {True}
    assert len(rows) == 2 * (80 + len(audited.queries["r2i"].query_key))
    found = result.recompute(path)
    assert found["mismatches"] == []
    assert found["max_difference"] == 0
    assert found["numbers"] > 500


def test_paired_changes_are_recomputed_from_both_files(audited, tmp_path):
    weaker = relink_jax.audit(**{**arrays.cohort(), "images": arrays.cohort(noise=1.6)["images"]}, **OPTIONS)
    audited.save(tmp_path / "before")
    wanted = [entry for entry in weaker.metrics if entry["name"] == "recall" and entry["k"] == 1]
    path = weaker.save(tmp_path / "after", paired=[comparison.entry("before", audited, weaker, metric) for metric in wanted])
    assert result.recompute(path)["mismatches"] == []
    stored = files.read_json(path)
    assert len(stored["paired"]) == len(wanted) == 12
    stored["paired"][2]["bits_removed"]["low"] += 0.01
    files.write_json(path, stored)
    assert [line.split(":")[0] for line in result.recompute(path)["mismatches"]] == ["paired[2].bits_removed.low"]


def test_recompute_names_what_was_changed(audited, tmp_path):
    path = audited.save(tmp_path / "x")
    stored = json.loads(path.read_text())
    stored["metrics"][0]["value"] += 0.001
    stored["metrics"][1]["ci"]["high"] -= 0.001
    files.write_json(path, stored)
    mismatches = result.recompute(path)["mismatches"]
    assert [line.split(":")[0] for line in mismatches] == ["metrics[0].value", "metrics[1].ci.high"]
    table = path.with_suffix(".parquet")
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.StoreError, match="table corrupted"):
        result.recompute(path)


def test_nothing_half_written(audited, tmp_path):
    for write in (1, 2, 3):
        with files.fail_at(write), pytest.raises(errors.StoreError, match="write failed"):
            audited.save(tmp_path / "y")
        assert not (tmp_path / "y.json").exists()
    assert audited.save(tmp_path / "y").exists()


def test_reading_results(audited):
    assert audited.counts["i2r", "other_patient"]["M"].shape == (80,)
    lines = audited.table().splitlines()
    assert lines[0].split()[:4] == ["direction", "stratum", "N", "k"]
    recalls = [entry for entry in audited.metrics if entry["name"] == "recall"]
    assert len(lines) == 2 + len(recalls) + len(audited.warnings)
    assert f"{recalls[0]['value']:.4f}" in lines[2]
    assert audited.top["i2r"][0].shape == (80, 10)
    with pytest.raises(errors.DataError, match="metric not measured in audit result: expected one of \\[10\\]"):
        audited.metric("recall", k=1, pool_size=11)


def test_paired_comparison_shares_draws(audited):
    weaker = relink_jax.audit(**{**arrays.cohort(), "images": arrays.cohort(noise=1.6)["images"]}, **OPTIONS)
    found = comparison.paired(audited, weaker, k=1, pool_size=10)
    assert found["before"] == audited.recall(1, 10)
    assert found["after"] == weaker.recall(1, 10)
    assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"] < 0
    assert found["reduction"]["value"] == pytest.approx(1 - found["after"] / found["before"])
    assert found["excess_reduction"]["value"] == pytest.approx((found["before"] - found["after"]) / (found["before"] - 0.1))
    assert found["bits_removed"]["value"] == pytest.approx(np.log2(found["before"] / found["after"]))
    unpaired = np.hypot(*(one.metric("recall", k=1, pool_size=10)["ci"]["se"] for one in (audited, weaker)))
    assert found["difference"]["high"] - found["difference"]["low"] < 2 * 1.96 * unpaired
    same = comparison.paired(audited, audited, "auc_within_query", k=None)
    assert (same["difference"]["low"], same["difference"]["high"]) == (0, 0)
    with pytest.raises(errors.DataError, match="arms differ in paired comparison"):
        comparison.paired(audited, relink_jax.audit(**arrays.cohort(n_images=81), **OPTIONS))


def test_impossible_sizes_are_refused_and_unfitting_ones_left_out():
    given = arrays.cohort()
    with pytest.raises(errors.DataError, match=r"pool size in argument 'pool_sizes': expected at most .*, the largest pool of these data, found 5000"):
        relink_jax.audit(**given, pool_sizes=[5000], ks=[1])
    with pytest.raises(errors.DataError, match=r"k in argument 'ks': expected at most .*, found 500"):
        relink_jax.audit(**given, pool_sizes=[10], ks=[500])
    with pytest.raises(errors.UsageError, match="argument 'ks': expected distinct integers of at least 1"):
        relink_jax.audit(**given, ks=[0])
    with pytest.raises(errors.UsageError, match="did you mean 'exclude'"):
        relink_jax.audit(**given, same_patient="exclud")
    with pytest.raises(errors.UsageError, match="did you mean 'ternary'"):
        relink_jax.audit(**given, label_policy="ternay")
    for option, value in (
        ("ks", [1.5]),
        ("pool_sizes", [10.5]),
        ("top_k", -1),
        ("bootstrap_replicates", 1),
        ("mc_repeats", -1),
        ("level", 0),
        ("level", 2),
        ("tile", -1),
        ("query_block", -1),
    ):
        with pytest.raises(errors.UsageError, match=f"argument '{option}': expected"):
            relink_jax.audit(**given, **{option: value})
    found = relink_jax.audit(**given, pool_sizes=[10, 5000], ks=[1, 20], **OPTIONS)
    assert any("pool sizes 5000 left out" in warning for warning in found.warnings)
    assert {entry["k"] for entry in found.metrics if entry["N"] == 10 and not entry["full"]} == {1, None}


def test_audit_needs_no_encoder():
    code = "import numpy as np, relink_jax, sys; e = np.eye(12)\nr = relink_jax.audit(images=e, texts=e, image_study=range(12), text_study=range(12), patient=range(12))\n"
    code += "assert r.recall(1, 10) == 1\nprint([name for name in ('flax', 'torch', 'transformers', 'dp_accounting', 'orbax') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=files.__file__.rsplit("/relink_jax/", 1)[0])
    assert done.stdout.strip() == "[]"


def test_package_and_function_share_a_name():
    from relink_jax import api, audit
    from relink_jax.audit import run

    assert callable(audit)
    assert run.audit_inputs
    assert api.audit.__name__ == "audit"


SMALL = {"pool_sizes": (2, 10), "ks": (1, 10), "bootstrap_replicates": 100, "mc_repeats": 50}


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_a_wrong_closed_form_fails_its_cross_check_on_either_side(monkeypatch, shift):
    found = relink_jax.audit(**arrays.cohort(), **SMALL)
    honest = monte_carlo.recall
    monkeypatch.setattr(monte_carlo, "recall", lambda *given: honest(*given) + shift)
    entries, warnings = metrics.compute(found.queries, found.protocol)
    assert {one["mc_check"]["passed"] for one in entries if one["mc_check"] and one["k"] == 1} == {False}
    assert any("Monte Carlo cross-check" in warning for warning in warnings)


def test_recall_that_cannot_be_less_than_one_has_no_spread():
    ci = relink_jax.audit(**arrays.cohort(), **SMALL).metric("recall", k=10, pool_size=10)["ci"]
    assert (ci["method"], ci["low"], ci["high"]) == ("patient_bca", 1, 1)


def test_recompute_names_changed_counts(tmp_path):
    path = relink_jax.audit(**arrays.cohort(), **SMALL).save(tmp_path / "x")
    stored = json.loads(path.read_text())
    stored["counts"]["i2r"]["other_patient"]["tied_queries"] += 1
    files.write_json(path, stored)
    assert [line.split(":")[0] for line in result.recompute(path)["mismatches"]] == ["counts.i2r.other_patient.tied_queries"]


def test_the_seed_reaches_the_bootstrap():
    first, second = (relink_jax.audit(**arrays.cohort(), **SMALL, seed=seed) for seed in (0, 5))
    assert second.protocol["bootstrap"]["seed"] == 5
    assert first.metric("recall", k=1)["ci"]["se"] != second.metric("recall", k=1)["ci"]["se"]


@pytest.mark.parametrize("path", ["", ".", "..", "/", "a\0b", "n" * 245, None, 3])
def test_a_result_is_saved_only_under_the_name_of_a_file(tmp_path, monkeypatch, audited, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match=r"path in AuditResult\.save: expected .*, found "):
        audited.save(path)
    assert not list(tmp_path.iterdir())


def test_a_result_with_a_long_name_is_saved(tmp_path, audited):
    assert audited.save(tmp_path / ("n" * 233)).exists()
