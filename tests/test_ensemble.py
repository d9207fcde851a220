"""CheXzero's published form, several members in one directory: converted, embedded and audited one by one and by their mean cosine similarity.

The members are the golden CheXzero checkpoint and copies of it with noise on every weight, under the entry with the golden's geometry.
"""

import dataclasses
import json
import shutil

import against_oracle as against
import numpy as np
import pytest
from own_archive import archive, write

import relink_jax
from relink_jax import cli
from relink_jax.encoders import convert, formats, published
from relink_jax.report import schema
from relink_jax.stages import ensembles, utility_prompts, utility_tasks
from relink_jax.store import checkpoints, digests, shards
from relink_jax.store.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn", "traced_once")  # the arithmetic of what is compiled here is tested elsewhere

GOLDEN = against.TESTS / "goldens" / "chexzero"
FIRST = "best_64_5e-05_original_22000_0.864.pt"
MEMBERS = ["chexzero-1", "chexzero-2", "chexzero-3"]
FAST = [
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.bootstrap_replicates=100", "--config.audit.pool_sizes=3", "--config.audit.ks=1", "--config.embed.batch_size=8"),
    *("--config.probe.bootstrap_replicates=100", "--config.probe.max_iterations=20"),
]


def relink(*words):
    return cli.main(list(words))


def refused(capsys, code, *words):
    """Runs a command that must be refused with this exit code, and returns its one sentence."""
    capsys.readouterr()
    assert relink(*words) == code
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    return told[0]


def state():
    with formats.opened(GOLDEN / FIRST, False) as contents:
        return {key: np.asarray(tensor.load(), np.float32) for key, tensor in contents.tensors.items()}


def member(directory, seed):
    """Writes a further member, noise on every weight of the golden."""
    draw, path = np.random.default_rng(seed), directory / f"best_{seed}.safetensors"
    noisy = {key: array + (0.3 * draw.standard_normal(array.shape)).astype(np.float32) for key, array in state().items()}
    convert.write_checkpoint(path, noisy, np.float32)
    return path


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Gives the entry, and a second one with another rule for its texts, the golden's geometry and preprocessing."""
    geometry = against.spec_of(GOLDEN, "chexzero", json.loads((GOLDEN / "oracle.json").read_text()))
    changed = {field: getattr(geometry, field) for field in ("image", "text", "dim")}
    entry = dataclasses.replace(published.MODELS["chexzero"], recipe="", **changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(published.MODELS, "chexzero", entry)
        patch.setitem(published.MODELS, "pubmedclip", dataclasses.replace(entry, text_rule="clip"))
        yield


@pytest.fixture
def source(tmp_path):
    """A directory with two members and the golden's side files."""
    directory = tmp_path / "CheXzero"
    shutil.copytree(GOLDEN, directory, ignore=shutil.ignore_patterns("oracle.*"))
    member(directory, 7)
    return directory


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A workdir in which three members and their ensemble have gone the whole road; the source lies beside it."""
    root = tmp_path_factory.mktemp("ensemble")
    shutil.copytree(GOLDEN, root / "CheXzero", ignore=shutil.ignore_patterns("oracle.*"))
    for seed in (7, 8):
        member(root / "CheXzero", seed)
    rows = [{**row, "findings": f"{chr(97 + index)} left lung", "Pleural Effusion": str(index % 2)} for index, row in enumerate(archive(root))]
    assert relink("cohort", *write(root, rows)) == 0
    workdir = f"--workdir={root / 'w'}"
    assert relink("convert", "--model=chexzero", f"--source={root / 'CheXzero'}", "--ensemble", workdir) == 0
    for stage in ("embed", "audit", "probe", "report"):
        assert relink(stage, *FAST, workdir) == 0
    return root / "w"


@pytest.fixture
def copy(road, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(road, tmp_path / "run")


def embedded(workdir, model):
    return [shards.read(workdir / "embeddings" / model / "original" / what)["embeddings"] for what in ("images", "texts")]


def units(draw, *shape):
    rows = draw.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_side_by_side_vectors_are_unit_and_their_products_the_mean_of_the_members(count):
    draw = np.random.default_rng(count)
    images, texts = [units(draw, 30, 6) for _ in range(count)], [units(draw, 20, 6) for _ in range(count)]
    made = [ensembles.SideBySide(iter(parts)) for parts in (images, texts)]
    joint = [part[:] for part in made]
    for parts in (made, joint):
        assert [(part.shape, part.dtype) for part in parts] == [((30, 6 * count), np.float32), ((20, 6 * count), np.float32)]
    for part in joint:
        np.testing.assert_allclose(np.linalg.norm(part.astype(np.float64), axis=1), 1, atol=1e-6)
    mean = np.mean([one.astype(np.float64) @ other.astype(np.float64).T for one, other in zip(images, texts, strict=True)], axis=0)
    np.testing.assert_allclose(joint[0].astype(np.float64) @ joint[1].astype(np.float64).T, mean, atol=1e-6)


def test_an_ensemble_is_written_a_shard_at_a_time(tmp_path):
    class Seen(np.ndarray):
        def __getitem__(self, index):
            asked.append(index)
            return np.asarray(super().__getitem__(index))

    asked, parts = [], [units(np.random.default_rng(seed), 11, 3) for seed in range(2)]
    shards.write_all(tmp_path / "s", {"embeddings": ensembles.SideBySide(part.view(Seen) for part in parts)}, 4, {})
    assert asked == [part for part in (slice(0, 4), slice(4, 8), slice(8, 11)) for _ in parts]
    np.testing.assert_array_equal(shards.read(tmp_path / "s")["embeddings"], np.hstack(parts) / np.float32(np.sqrt(2)))


def test_an_audit_counts_what_the_mean_similarities_say():
    draw, count, studies = np.random.default_rng(3), 3, 40
    texts = [units(draw, studies, 6) for _ in range(count)]
    for part in texts:
        part[[4, 11, 30]] = part[4]  # one report of three studies
    images = [part + 0.8 * units(draw, studies, 6) for part in texts]
    images = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in images]
    patient = np.arange(studies) // 2
    joint = {name: ensembles.SideBySide(parts)[:] for name, parts in (("images", images), ("texts", texts))}
    found = relink_jax.audit(**joint, image_study=range(studies), text_study=range(studies), patient=patient.tolist(), bootstrap_replicates=100)
    mean = np.mean([one.astype(np.float64) @ other.astype(np.float64).T for one, other in zip(images, texts, strict=True)], axis=0)
    for direction, scores in (("i2r", mean), ("r2i", mean.T)):
        others, own = patient[:, None] != patient[None], np.diag(scores)[:, None]
        assert np.abs(scores - own)[np.abs(scores - own) > 0].min() > 1e-6  # nothing that float32 could turn around
        expected = {"M": others.sum(1), "g": (others & (scores > own)).sum(1), "t": (others & (scores == own)).sum(1)}
        counted = found.counts[direction, "other_patient"]
        for name, integers in expected.items():
            np.testing.assert_array_equal(counted[name], integers)
    assert found.counts["i2r", "other_patient"]["t"].sum() > 0


def test_every_member_and_the_ensemble_are_audited_and_the_page_checks(road, copy, capsys):
    assert relink("report", "--check", f"--workdir={road}") == 0
    documents = {one["model"]["name"]: one for one in schema.load_results(road / "results")}
    assert sorted(documents) == ["chexzero", *MEMBERS]
    record, parts = documents["chexzero"]["model"], [documents[name]["model"] for name in MEMBERS]
    assert record["ensemble"] == {"rule": "mean of cosine similarities", "members": MEMBERS}
    assert all("ensemble" not in part for part in parts)
    for field in ("tier", "exposure", "specialisation", "encoding", "dp"):
        assert record[field] == parts[0][field]
    for field in ("weights_sha256", "heads_sha256", "features_sha256"):
        assert record[field] == digests.value_digest([part[field] for part in parts])
    warnings = {name: [line for line in one["warnings"] if line.startswith("chexzero scores")] for name, one in documents.items()}
    assert {name: len(lines) for name, lines in warnings.items()} == {"chexzero": 1, **dict.fromkeys(MEMBERS, 0)}
    assert "the mean of its 3 members' cosine similarities, which is not the average of probabilities" in warnings["chexzero"][0]
    page = (road / "report" / "index.html").read_text()
    told = warnings["chexzero"][0].replace("'", "&#39;")
    for words in ("chexzero links", "ensemble, mean of cosine similarities", "Members of chexzero, each by itself", told):
        assert words in page
    assert "rise with specialisation" not in page  # members are no rungs
    assert relink("audit", *FAST, "--model=chexzero", f"--workdir={copy}") == 0
    assert f"warning: {warnings['chexzero'][0]}" in capsys.readouterr().out


def test_the_ensembles_embeddings_are_its_members(road):
    every = [embedded(road, name) for name in MEMBERS]
    joint = embedded(road, "chexzero")
    mean = np.mean([images.astype(np.float64) @ texts.astype(np.float64).T for images, texts in every], axis=0)
    np.testing.assert_allclose(joint[0].astype(np.float64) @ joint[1].astype(np.float64).T, mean, atol=1e-6)
    assert np.abs(every[0][0] - every[1][0]).max() > 0.01
    assert not (road / "features" / "chexzero").exists()
    document = json.loads((road / "results" / "chexzero__original__pairs-A-test.json").read_text())
    assert document["data"]["dim"] == joint[0].shape[1] == 3 * every[0][0].shape[1]


def test_only_the_embeddings_of_an_ensemble_are_probed(copy, monkeypatch):
    seen, real = [], utility_tasks.linear_probe
    monkeypatch.setattr(utility_tasks, "linear_probe", lambda config, cohort, sets, x, *names: seen.append(x) or real(config, cohort, sets, x, *names))
    assert relink("probe", *FAST, "--config.models=chexzero", f"--workdir={copy}") == 0
    for probed, expected in zip(seen, embedded(copy, "chexzero"), strict=True):  # images, then reports
        np.testing.assert_array_equal(probed, expected)
    documents = {one["model"]["name"]: one for one in schema.load_results(copy / "results")}
    probed = {name: [entry["features"] for entry in one["utility"]["probe"]] for name, one in documents.items()}
    assert probed == {"chexzero": ["original"], **{name: ["pre_head", "original"] for name in MEMBERS}}


def test_the_ensembles_prompts_are_its_members_and_go_with_theirs(road, copy, capsys):
    found = Workdir(road, "", b"")
    joint, parts = (utility_prompts.embeddings(found, name, "original") for name in ("chexzero", MEMBERS[0]))
    np.testing.assert_allclose(joint[:, : parts.shape[1]] * np.float32(np.sqrt(3)), parts, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, atol=1e-6)
    assert utility_prompts.available(found, "chexzero")
    shards.discard(copy / "features" / MEMBERS[1] / "prompts")
    assert not utility_prompts.available(Workdir(copy, "", b""), "chexzero")
    assert "chexzero: no embedded prompts of this version, so zero-shot is left out; 'relink embed' adds them" in capsys.readouterr().err


def test_each_member_names_its_file_and_a_rerun_changes_nothing(road, capsys):
    names = [checkpoints.provenance_of(road / "models" / name)["files"][0]["name"] for name in MEMBERS]
    assert names == [FIRST, "best_7.safetensors", "best_8.safetensors"]
    recorded = json.loads((road / "config.json").read_text())
    assert (recorded["models"], recorded["mitigate"]) == ([*MEMBERS, "chexzero"], "")
    before = {path: path.stat().st_mtime_ns for path in (road / "models").rglob("*") if path.is_file()}
    assert relink("convert", "--model=chexzero", f"--source={road.parent / 'CheXzero'}", "--ensemble", f"--workdir={road}") == 0
    assert relink("convert", f"--workdir={road}") == 0
    assert {path: path.stat().st_mtime_ns for path in (road / "models").rglob("*") if path.is_file()} == before
    assert f"ensemble of 3: mean of cosine similarities of {', '.join(MEMBERS)}" in capsys.readouterr().out
    assert relink("embed", *FAST, "--model=chexzero", f"--workdir={road}") == 0
    assert "chexzero: an ensemble has no features of its own, so it is skipped; its members chexzero-1," in capsys.readouterr().err


def test_an_ensemble_is_not_mitigated_or_exported_and_its_members_are_named(copy, capsys):
    told = refused(capsys, 2, "heads", "--config.mitigate=chexzero", f"--workdir={copy}")
    named = "expected one of its members (chexzero-1, chexzero-2, chexzero-3), such as"
    assert f"ensemble that cannot be mitigated in model 'chexzero': {named} --config.mitigate=chexzero-1, found the ensemble itself" in told
    told = refused(capsys, 2, "convert", "--to=hf", "--model=chexzero", f"--workdir={copy}")
    assert f"ensemble that cannot be exported in model 'chexzero': {named} --model=chexzero-1" in told
    assert relink("convert", "--to=hf", "--model=chexzero-2", "--arm=original", f"--workdir={copy}") == 0


def edited(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "field", "says"),
    [
        ("models/chexzero-2/provenance.json", "tree_sha256", "member changed in models/chexzero/ensemble.json: expected tree_sha256 "),
        ("heads/chexzero-2/original/card.json", "heads_sha256", "member changed in models/chexzero/ensemble.json: expected heads_sha256 "),
        ("models/chexzero/ensemble.json", "tier", "ensemble edited in models/chexzero/ensemble.json: expected the content its SHA-256 covers"),
    ],
)
def test_a_changed_member_or_record_is_noticed_by_every_stage(copy, capsys, path, field, says):
    edited(copy / path, lambda document: document.update({field: "0" * 64}))
    for words in (("audit", *FAST, "--model=chexzero"), ("report", "--check"), ("convert", "--model=chexzero")):
        assert says in refused(capsys, 74, *words, f"--workdir={copy}")


def test_features_of_a_member_that_are_others_make_the_ensembles_embeddings_stale(copy, capsys):
    directory = copy / "features" / "chexzero-2" / "images"
    rows, identity = shards.read(directory), shards.manifest(directory)["identity"]
    for other in (directory, copy / "embeddings" / "chexzero-2"):
        shards.discard(other)
    shards.write_all(directory, rows, 1024, {**identity, "weights": "others"})
    assert "stale embeddings" in refused(capsys, 74, "audit", *FAST, "--model=chexzero", f"--workdir={copy}")


def test_a_directory_of_several_models_suggests_an_ensemble(source, tmp_path, capsys):
    told = refused(capsys, 65, "convert", "--model=chexzero", f"--source={source}", f"--workdir={tmp_path / 'w'}")
    assert told.endswith(f"found {FIRST} and best_7.safetensors; --ensemble makes each of them a member of an ensemble")


def test_sources_that_are_no_ensemble_are_refused(source, tmp_path, capsys):
    convert_it = ("convert", "--model=chexzero", "--ensemble", f"--workdir={tmp_path / 'w'}")
    assert "flag --ensemble in 'relink convert': expected --source=DIR beside it" in refused(capsys, 2, *convert_it)
    expected = "expected a directory with at least two weight files, one for each member"
    told = refused(capsys, 2, *convert_it, f"--source={source / FIRST}")
    assert f"members of an ensemble in --source {FIRST!r}: {expected}, found a single file" in told
    shutil.copy(source / FIRST, source / "copy.pt")
    told = refused(capsys, 65, *convert_it, f"--source={source}")
    assert f"member twice in source 'CheXzero': expected each member once, found one file as {FIRST} and copy.pt" in told
    for name in ("copy.pt", "best_7.safetensors"):
        (source / name).unlink()
    assert f"{expected}, found {FIRST}" in refused(capsys, 65, *convert_it, f"--source={source}")
    smaller = {key: array for key, array in state().items() if key != "ln_final.weight"}
    convert.write_checkpoint(source / "best_9.safetensors", smaller, np.float32)
    told = refused(capsys, 65, *convert_it, f"--source={source}")
    assert told.startswith("relink convert: error: best_9.safetensors: ")
    assert told.endswith("without ln_final.weight")
    assert not (tmp_path / "w" / "models" / "chexzero").exists()


def test_members_that_are_there_must_be_the_same_files_of_the_same_model(source, tmp_path, capsys):
    workdir, ensemble = f"--workdir={tmp_path / 'w'}", ("convert", "--model=chexzero", f"--source={source}", "--ensemble")
    assert relink("convert", "--model=chexzero-1", "--entry=pubmedclip", f"--source={source / FIRST}", workdir) == 0
    told = refused(capsys, 74, *ensemble, workdir)
    assert "members differ in models/chexzero-2: expected what chexzero-1 is, found another text_rule; use a fresh workdir" in told
    assert not (tmp_path / "w" / "models" / "chexzero").exists()
    told = refused(capsys, 74, "convert", "--model=chexzero-1", "--entry=chexzero", f"--source={source / 'best_7.safetensors'}", workdir)
    assert f"of {FIRST}, found no such file" in told
    shutil.rmtree(tmp_path / "w")
    assert relink(*ensemble, workdir) == 0
    told = refused(capsys, 74, "convert", "--model=chexzero", f"--source={source / FIRST}", workdir)
    assert "other checkpoint in models/chexzero: expected a single model, found an ensemble" in told
    member(source, 8)
    assert "other ensemble in models/chexzero: expected the members that it was made of" in refused(capsys, 74, *ensemble, workdir)


def test_an_ensemble_does_not_take_the_place_of_a_model(source, tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("convert", "--model=chexzero", f"--source={source / FIRST}", workdir) == 0
    told = refused(capsys, 74, "convert", "--model=chexzero", f"--source={source}", "--ensemble", workdir)
    assert "other checkpoint in models/chexzero: expected an ensemble, found a single model" in told
    pins = [digests.file_digest(source / name) for name in ("best_7.safetensors", FIRST)]
    assert relink("convert", "--model=both", "--entry=chexzero", f"--source={source}", "--ensemble", f"--sha256={','.join(pins)}", workdir) == 0
    assert [checkpoints.provenance_of(tmp_path / "w" / "models" / f"both-{number}")["model"]["sha256"] for number in (1, 2)] == [[pins[1]], [pins[0]]]
    recorded = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (recorded["models"], recorded["mitigate"]) == (["chexzero", "both-1", "both-2", "both"], "chexzero")
    assert relink("convert", "--model=third", "--entry=chexzero", f"--source={source / FIRST}", workdir) == 0
    assert json.loads((tmp_path / "w" / "config.json").read_text())["models"] == ["chexzero", "both-1", "both-2", "both", "third"]
