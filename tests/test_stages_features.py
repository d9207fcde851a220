"""Maps and heads of every form through the stages: read shard by shard, projected in chunks, mitigated, audited and probed."""

import json

import jax
import numpy as np
import pytest

from relink_jax import cli, errors, heads
from relink_jax.cohort import prompts, schema
from relink_jax.encoders import specs, zoo
from relink_jax.stages import accountants_audit, context, probe
from relink_jax.store import checkpoints, shards, workdir

pytestmark = pytest.mark.usefixtures("quick_module")  # the arithmetic of what is compiled here is tested elsewhere

F, M, D, P = 10, 4, 8, 6
RUN = [
    *("--config=demo_small", "--config.cohort.phantom.n_patients=60", "--config.models=mine", "--config.mitigate=mine"),
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.bootstrap_replicates=100", "--config.audit.pool_sizes=10", "--config.probe.bootstrap_replicates=100", "--config.probe.max_iterations=20"),
]

PROVENANCE = {
    "model": specs.to_json(zoo.get_vlm("phantom-0-untrained")),
    **dict.fromkeys(("source_sha256", "config_sha256", "rules_sha256"), "0" * 64),
    **{"layout": "none", "source_dtypes": ["F32"], "ignored": [], "parameters": 1, "logit_scale": 1.0, "side_files_sha256": {}},
}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(seed, inputs, outputs, bias=True):
    return {"kernel": draw(seed, inputs, outputs)} | ({"bias": draw(seed + 1, outputs)} if bias else {})


def norm(width):
    return {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}


FORMS = {
    "linear": dense(1, F, D, bias=False),
    "affine": dense(1, F, D),
    "mlp": {"fc1": dense(1, F, 9, bias=False), "fc2": dense(2, 9, D, bias=False)},
    "cxr_bert": {"dense_to_hidden": dense(1, F, D), "norm": norm(D), "dense_to_output": dense(3, D, D)},
    "patch": {"conv1": dense(1, F + M, D, bias=False), "bn": {**norm(D), "mean": draw(2, D), "var": np.ones(D, np.float32)}, "conv2": dense(3, D, D)}
    | {"missing": draw(4, M)},
    "map": {"norm": norm(F), "fc1": dense(1, F, 9), "fc2": dense(3, 9, F)},
    "none": {},
}


def kept(found, what, rows, identity=None, shape=(F,), dtype=np.float32):
    """Writes random features in a shuffled order, as a run may have, and returns them in index order."""
    table = draw(rows, rows, *shape).astype(dtype)
    index = np.random.default_rng(1).permutation(rows).astype(np.int32)
    shards.write_all(found.features("mine", what), {"features": table[index], "index": index}, 7, identity or {})
    return table


@pytest.fixture
def found(tmp_path):
    with workdir.opened(tmp_path / "w", {}, {}) as opened:
        yield opened


def brought(found, image, text):
    heads.save(found.heads("mine", "original"), {"image": FORMS[image], "text": FORMS[text]}, {"arm": "original"})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_maps_are_read_in_index_order_and_averaged_into_vectors(found, dtype):
    maps, texts = kept(found, "images", 23, shape=(P, F), dtype=dtype), kept(found, "texts", 9)
    np.testing.assert_array_equal(context.features(found, "mine", "images"), maps)
    assert context.features(found, "mine", "images").dtype == dtype
    pooled = context.vectors(found, "mine", "images")
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, maps.astype(np.float64).mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(context.vectors(found, "mine", "texts"), texts)


@pytest.mark.parametrize("chunk", [1, 4 * P * F * 3, 2**28])
def test_embeddings_do_not_depend_on_the_chunk_and_no_chunk_is_larger(found, monkeypatch, chunk):
    maps, texts = kept(found, "images", 23, shape=(P, F)), kept(found, "texts", 9)
    brought(found, "patch", "cxr_bert")
    seen, real = [], context._project
    monkeypatch.setattr(context, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(context, "_project", lambda head, rows: seen.append(rows.nbytes) or real(head, rows))
    images, reports = context.embeddings(found, "mine", "original", 5)
    np.testing.assert_allclose(images, heads.project(FORMS["patch"], maps), atol=1e-6)
    np.testing.assert_allclose(reports, heads.project(FORMS["cxr_bert"], texts), atol=1e-6)
    assert max(seen) <= max(chunk, 4 * P * F)
    again = context.embeddings(found, "mine", "original", 5)
    np.testing.assert_array_equal(again[0], images)


def test_a_damaged_map_shard_is_named_and_no_embedding_is_written(found):
    kept(found, "images", 23, shape=(P, F))
    kept(found, "texts", 9)
    brought(found, "patch", "none")
    path = found.features("mine", "images") / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(errors.StoreError, match="shard corrupted in images/shard-00002"):
        context.embeddings(found, "mine", "original", 5)
    assert not shards.finished(found.embeddings("mine", "original", "images"))


@pytest.mark.parametrize("changed", ["images", "texts", "heads"])
def test_embeddings_of_features_or_heads_that_are_others_now_are_stale(found, changed):
    for what in ("images", "texts"):
        kept(found, what, 9)
    brought(found, "linear", "linear")
    context.embeddings(found, "mine", "original", 5)
    if changed == "heads":
        brought(found, "affine", "linear")
    else:
        shards.discard(found.features("mine", changed))
        kept(found, changed, 9, dtype=np.float16)  # other shards under the same identity
    with pytest.raises(errors.StoreError, match="stale embeddings in embeddings of arm 'original'"):
        context.embeddings(found, "mine", "original", 5)


def test_the_encoding_names_the_least_exact_of_both_sides(found):
    kept(found, "images", 5, {"precision": "float32", "dtype": "float16"}, shape=(P, F))
    kept(found, "texts", 5, {"precision": "bf16", "dtype": "float32"})
    encoding = context.encoding(found, "mine")
    assert encoding == {"precision": "bf16 and float32", "dtype": "float16 and float32"}
    assert [sentence.split(",")[0] for sentence in context.encoding_warnings(encoding)] == [
        "features were computed with weights and activations in bfloat16",
        "feature maps were stored in float16",
    ]
    assert context.encoding_warnings({"precision": "float32", "dtype": "float32"}) == []


@pytest.fixture(scope="module")
def cohort_workdir(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms") / "w"
    assert cli.main(["cohort", *RUN, f"--workdir={root}"]) == 0
    checkpoints.save(workdir.Workdir(root, "", b"").model("mine"), {"image": {"unused": np.zeros(1, np.float32)}}, PROVENANCE)
    return root


def prepared(root, image, text, **identity):
    """Puts random features and heads of a model 'mine' into a workdir that has a cohort, in place of earlier ones."""
    found, cohort = workdir.Workdir(root, "", b""), schema.load(root / "cohort", root)
    for directory in (root / "features", root / "embeddings", root / "heads", root / "results"):
        shards.discard(directory)
    kept(found, "images", len(cohort.image_key), identity, shape=(P, F) if image == "patch" else (F,))
    kept(found, "texts", len(cohort.text), identity)
    brought(found, image, text)


@pytest.mark.parametrize(
    ("image", "text"),
    [("affine", "affine"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("patch", "cxr_bert"), ("linear", "mlp"), ("none", "map")))],
)
def test_heads_of_every_form_are_mitigated_audited_and_probed(cohort_workdir, image, text):
    prepared(cohort_workdir, image, text)
    found = workdir.Workdir(cohort_workdir, "", b"")
    kept(found, "anchors", 16)
    kept(found, "prompts", len(prompts.texts()), {"prompts": prompts.digest()})
    flags = [*RUN, "--config.heads.noise_draws=1", "--config.heads.mechanism.iterations=3", f"--workdir={cohort_workdir}"]
    for stage in ("heads", "audit", "probe"):
        assert cli.main([stage, *flags]) == 0
    original, trained = (context.load_arm(found, "mine", arm) for arm in ("original", "dp"))
    moved = {
        side: not all(np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(heads.partition(one[0])[0][side]) for one in (original, trained)), strict=True))
        for side in heads.SIDES
        if original[0][side]
    }
    assert all(moved.values())
    for a, b in zip(*(jax.tree.leaves(heads.partition(one[0])[1]) for one in (original, trained)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trained[2]["epsilon"]["rdp"] <= 0.34
    document = json.loads(next((cohort_workdir / "results").glob("mine__dp__*.json")).read_text())
    assert document["model"]["encoding"] == {"precision": "float32", "dtype": "float32"}
    priced(document["utility"])


def priced(utility):
    """Checks the utility of a dp arm: every task, its change against the original heads, and label-level retrieval."""
    tasks = {task: [entry["features"] for entry in utility[task]] for task in probe.TASKS}
    assert tasks == {"probe": ["pre_head", "dp"], "report_probe": ["dp"], "zero_shot": ["dp"]}
    assert [(entry["task"], entry["features"], entry["against"]) for entry in utility["paired"]] == [(task, "dp", "original") for task in tasks]
    assert all(entry["equivalence"]["margin"] == utility["protocol"]["margin"] == 0.01 for entry in utility["paired"])
    assert set(utility["zero_shot"][0]["undefined"]) <= set(utility["probe"][1]["undefined"])  # a probe also needs both classes to fit
    assert utility["probe"][1]["n_patients"] == utility["report_probe"][0]["n_patients"] == utility["zero_shot"][0]["n_patients"]
    assert utility["report_probe"][0]["n_test"] <= utility["zero_shot"][0]["n_test"] == utility["probe"][1]["n_test"]
    assert 0 <= utility["label_retrieval"]["precision_at_10"]["value"] <= 1
    assert 0 < utility["label_retrieval"]["chance"] < utility["label_retrieval"]["chance_ndcg"] < 1


def test_without_prompts_of_this_version_zero_shot_is_left_out_and_the_rest_measured_anew(cohort_workdir, capsys):
    prepared(cohort_workdir, "linear", "linear")
    kept(workdir.Workdir(cohort_workdir, "", b""), "prompts", 3, {"prompts": "of another version"})
    flags = [*RUN, "--config.mitigate=", f"--workdir={cohort_workdir}"]
    assert cli.main(["audit", *flags]) == 0
    path = next((cohort_workdir / "results").glob("mine__original__*.json"))
    document = json.loads(path.read_text())
    document["utility"]["zero_shot"] = ["stale"]
    document["warnings"] += ["zero-shot of Edema: stale", "probe of Edema: stale", "something else"]
    path.write_text(json.dumps(document))
    assert cli.main(["probe", *flags]) == 0
    told, document = capsys.readouterr(), json.loads(path.read_text())
    assert "mine: no embedded prompts of this version, so zero-shot is left out; 'relink embed' adds them" in told.err
    assert "report probe" in told.out
    assert "zero-shot 0." not in told.out
    assert "zero_shot" not in document["utility"]
    assert document["utility"]["paired"] == []
    assert document["utility"]["report_probe"][0]["features"] == "original"
    assert "something else" in document["warnings"]
    assert not any(line.endswith("stale") for line in document["warnings"])


def test_the_configured_mechanism_is_attacked_and_its_ledger_says_so(cohort_workdir):
    prepared(cohort_workdir, "linear", "linear")
    found = workdir.Workdir(cohort_workdir, "", b"")
    kept(found, "anchors", 16)
    flags = [*RUN, "--config.heads.noise_draws=1", "--config.heads.mechanism.iterations=3", f"--workdir={cohort_workdir}"]
    config, root, *_ = cli.parse("heads", flags)
    told, result = accountants_audit.run(config, root, 40, 0)
    assert "recorded" not in told
    assert cli.main(["heads", *flags]) == 0
    told, result = accountants_audit.run(config, root, 40, 0)
    assert result["search"]["holds"]
    assert not result["refuted"]
    assert result["one_run"]["configured"]["canaries"] == 40
    assert result["one_run"]["claim_rdp"] == pytest.approx(0.34, abs=0.02)
    ledger = context.load_arm(found, "mine", "dp")[2]
    assert ledger["audit"]["method"] == "canaries, one run"
    assert ledger["audit"]["lower_bound"] == result["one_run"]["configured"]["lower_bound"]
    assert "canaries" in ledger["statement"]


def test_a_model_without_heads_cannot_be_mitigated(cohort_workdir, capsys):
    prepared(cohort_workdir, "none", "none")
    capsys.readouterr()
    assert cli.main(["heads", *RUN, f"--workdir={cohort_workdir}"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "heads that cannot be mitigated in model 'mine': expected a projection head on at least one side" in told[0]
    assert "--config.mitigate= audits without mitigation" in told[0]


def test_results_of_bf16_features_carry_a_warning(cohort_workdir):
    prepared(cohort_workdir, "patch", "linear", precision="bf16")
    assert cli.main(["audit", *RUN, "--config.mitigate=", f"--workdir={cohort_workdir}"]) == 0
    document = json.loads(next((cohort_workdir / "results").glob("mine__original__*.json")).read_text())
    assert document["model"]["encoding"]["precision"] == "bf16"
    assert any("in bfloat16, not in float32" in sentence for sentence in document["warnings"])
