"""An audit that stops anywhere, and one that is called again: what is finished is not done twice, and the results are those of one that never stopped."""

import json
import shutil

import numpy as np
import pytest
from test_stages_features import FORMS, RUN, brought, cohort_workdir, kept  # noqa: F401

from relink_jax import cli, errors, heads
from relink_jax.audit import adversary
from relink_jax.audit import run as audit_run
from relink_jax.cohort import schema
from relink_jax.retrieval import loop, resume
from relink_jax.runtime import stopping
from relink_jax.stages import audit
from relink_jax.store import digests, files, workdir

pytestmark = pytest.mark.usefixtures("quick_module")  # what is compiled here is tested elsewhere

FEW = ["--config.audit.bootstrap_replicates=100", "--config.audit.ks=1", "--config.audit.pool_sizes=10"]
BROUGHT = [*FEW, "--config.audit.attacks=csls,study_mean,ridge", "--config.audit.measures=right_patient,shuffle,infonce,verification,tiers"]
PLAIN = [flag for flag in RUN if not flag.startswith("--config.audit.")]
ARMS = [*PLAIN, *FEW, "--config.arms=random", "--config.audit.attacks=ridge", "--config.audit.measures=shuffle"]


def results(root):
    """Returns the bytes of every result by name."""
    return {path.name: path.read_bytes() for path in (root / "results").iterdir()}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Embeddings of 60 patients with two studies each, and flags that audit them."""
    folder, draw = tmp_path_factory.mktemp("brought") / "vectors", np.random.default_rng(0)
    folder.mkdir()
    rows, labels = draw.standard_normal((120, 8)), np.full((120, 14), np.nan)
    labels[:, :2] = draw.integers(0, 2, (120, 2))
    images = rows + 0.5 * draw.standard_normal((120, 8))
    np.savez(folder / "embeddings.npz", images=images, texts=rows, image_study=range(120), text_study=range(120), patient=np.arange(120) // 2, labels=labels)
    return [f"--embeddings={folder}", *BROUGHT]


@pytest.fixture(scope="module")
def fresh(vectors, tmp_path_factory):
    """A workdir of those embeddings with its results, as an audit that was never stopped leaves it."""
    root = tmp_path_factory.mktemp("fresh") / "w"
    assert cli.main(["audit", *vectors, f"--workdir={root}"]) == 0
    assert [path.name for path in (root / "counting").iterdir()] == ["audited.json"]
    return root


def emptied(root, to):
    """Returns a copy of a workdir without its results."""
    shutil.copytree(root, to, ignore=shutil.ignore_patterns("results", "counting"))
    return to


@pytest.fixture
def long(monkeypatch):
    """Makes every pass long, of two parts."""
    monkeypatch.setattr(loop, "LONG", 1)
    monkeypatch.setattr(resume, "PARTS", 2)


@pytest.fixture
def tried(monkeypatch):
    """Returns the labels of attacks as they are tried, and 'audit' for each audit."""
    done, honest, whole = [], adversary.measured, audit_run.audit_inputs
    monkeypatch.setattr(adversary, "measured", lambda attack, *given: (done.append(adversary.label_of(attack)), honest(attack, *given))[1])
    monkeypatch.setattr(audit_run, "audit_inputs", lambda *given, **named: (done.append("audit"), whole(*given, **named))[1])
    return done


def resumed(root, flags, failing, most=100):
    """Audits again and again, the durable write number `failing` of each run failing, until one ends; returns how many it took."""
    for turn in range(most):
        with files.fail_at(failing):
            code = cli.main(["audit", *flags, f"--workdir={root}"])
        if not code:
            return turn + 1
        assert code == 74
    raise AssertionError("no progress")


@pytest.mark.parametrize("failing", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 9, 11))])  # of the fewest in which something is finished
def test_an_audit_whose_writes_fail_on_and_on_ends_with_the_same_bytes(fresh, vectors, tmp_path, long, failing):
    root = emptied(fresh, tmp_path / "w")
    assert resumed(root, vectors, failing) > 5
    assert results(root) == results(fresh)
    assert [path.name for path in (root / "counting").iterdir()] == ["audited.json"]


@pytest.mark.slow
def test_any_failed_write_of_an_audit_leaves_one_that_ends_with_the_same_bytes(fresh, vectors, tmp_path, long):
    failing, code = 0, 74
    while code == 74:
        failing += 1
        root = emptied(fresh, tmp_path / str(failing))
        with files.fail_at(failing):
            code = cli.main(["audit", *vectors, f"--workdir={root}"])
        assert cli.main(["audit", *vectors, f"--workdir={root}"]) == 0
        assert results(root) == results(fresh), failing
        shutil.rmtree(root)
    assert failing > 60


def test_an_attack_that_is_done_is_not_tried_again(fresh, vectors, tmp_path, tried, monkeypatch, capsys):
    root = emptied(fresh, tmp_path / "w")
    honest = adversary.measured

    def asking(attack, *given):
        if len(tried) == 3:
            stopping.ask()
        return honest(attack, *given)

    monkeypatch.setattr(adversary, "measured", asking)
    assert cli.main(["audit", *vectors, f"--workdir={root}"]) == 75
    assert "run the same command to go on" in capsys.readouterr().err
    stopping.forget()
    before = list(tried)
    assert before == ["audit", "csls.inductive", "csls.transductive", "study_mean"]
    tried.clear()
    assert cli.main(["audit", *vectors, f"--workdir={root}"]) == 0
    assert not set(tried) & set(before[1:])
    assert results(root) == results(fresh)


def test_results_that_are_there_are_shown_without_an_audit_and_only_those(fresh, vectors, tmp_path, tried, capsys):
    root, run = tmp_path / "w", lambda *more: cli.main(["audit", *vectors, *more, f"--workdir={root}"])
    shutil.copytree(fresh, root)
    capsys.readouterr()
    assert run("--again") == 0
    table, before = capsys.readouterr().out, results(root)
    assert tried.count("audit") == 1
    assert before == results(fresh)
    path = root / "results" / "vectors__none__all.json"
    document = json.loads(path.read_text()) | {"utility": {"probe": ["measured"]}}
    files.write_json(path, digests.sealed(document))
    told, priced = tried.clear(), path.read_bytes()
    assert run() == 0
    told = capsys.readouterr()
    assert told.out == table
    assert "'relink audit --again' makes them anew" in told.err
    assert path.read_bytes() == priced
    assert not tried
    for damage in (lambda: path.write_text(path.read_text().replace("0.", "1.", 1)), lambda: (root / "results" / "vectors__none__all.images.parquet").unlink()):
        damage()
        assert run() == 0
        assert tried.count("audit") == 1
        assert results(root) == before
        tried.clear()
    assert run("--config.audit.seed=1") == 0
    assert tried.count("audit") == 1
    assert results(root) != before


def test_what_is_read_back_is_the_result_that_was_written(fresh, vectors):
    config, *_ = cli.parse("audit", [*vectors, f"--workdir={fresh}"])
    found = audit.run(config, str(fresh))["vectors__none__all"]
    again = audit.run(config, str(fresh), again=True)["vectors__none__all"]
    assert (found.metrics, found.warnings, found.selected, found.given) == (again.metrics, again.warnings, again.selected, again.given)
    for key, counted in again.counts.items():
        for integer in "Mgt":
            np.testing.assert_array_equal(found.counts[key][integer], counted[integer])
    for direction, (numbers, scores) in again.top.items():
        keys, read = again.candidate_key[direction], found.top[direction][0]
        np.testing.assert_array_equal(found.candidate_key[direction][read], keys[numbers])
        np.testing.assert_array_equal(found.top[direction][1], scores)
        np.testing.assert_array_equal(found.own_score[direction], again.own_score[direction])
    assert found.to_json()["attacks"] == again.to_json()["attacks"]


@pytest.fixture(scope="module")
def arms(cohort_workdir, tmp_path_factory):  # noqa: F811
    """A workdir with features, two arms of one model, and their results."""
    root = tmp_path_factory.mktemp("arms") / "w"
    shutil.copytree(cohort_workdir, root)
    found, cohort = workdir.Workdir(root, "", b""), schema.load(root / "cohort", root)
    kept(found, "images", len(cohort.image_key))
    kept(found, "texts", len(cohort.text))
    brought(found, "linear", "linear")
    card = {"arm": "random", "settings": {}, "settings_sha256": digests.value_digest({})}
    heads.save(found.heads("mine", "random"), {"image": FORMS["affine"], "text": FORMS["linear"]}, card)
    assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 0
    return root


def failing_after(many, honest):
    """Returns a function that does what `honest` does so often, and then fails."""
    calls = []

    def called(*given, **named):
        calls.append(1)
        if len(calls) > many:
            raise errors.StoreError("it fails")
        return honest(*given, **named)

    return called


def test_finished_arms_are_taken_up_and_what_needs_no_heads_is_tried_once(arms, tmp_path, tried, monkeypatch):
    root, whole = emptied(arms, tmp_path / "w"), results(arms)
    sets = sum(name.endswith(".json") for name in whole) // 2
    with monkeypatch.context() as patch:
        patch.setattr(audit_run, "audit_inputs", failing_after(1, audit_run.audit_inputs))
        assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 74
    assert not (root / "results").exists()
    with monkeypatch.context() as patch:
        patch.setattr(audit.result.AuditResult, "save", failing_after(1, audit.result.AuditResult.save))
        assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 74
    assert len(list((root / "results").glob("*.json"))) == 1
    assert tried.count("audit") == 2 * sets
    assert tried.count("ridge.all.before_head") == sets
    tried.clear()
    assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 0
    assert not tried
    assert results(root) == whole
    assert [path.name for path in (root / "counting").iterdir()] == ["audited.json"]


def test_results_are_not_shown_where_their_embeddings_are_damaged_now_or_heads_are_others(arms, tmp_path, tried, capsys):
    root = tmp_path / "w"
    shutil.copytree(arms, root)
    assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 0
    assert not tried
    path = root / "embeddings" / "mine" / "random" / "images" / "shard-00000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 74
    path.write_bytes(whole)
    card = {"arm": "random", "settings": {}, "settings_sha256": digests.value_digest({})}
    heads.save(root / "heads" / "mine" / "random", {"image": FORMS["linear"], "text": FORMS["linear"]}, card)
    assert cli.main(["audit", *ARMS, f"--workdir={root}"]) == 74
    assert "stale embeddings" in capsys.readouterr().err
