"""`relink bench faults`: small real runs survive what is done to them, and judges are not fooled."""

import json
import pathlib
import random
import shutil

import pytest
from safetensors import numpy as safetensors_numpy

from relink_jax.stages import bench_soak, faults, faults_damage, faults_inject, faults_judge, faults_kills, faults_scene, faults_writes
from relink_jax.stages.faults_process import Ended
from relink_jax.store import digests, files

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")  # compared with what the same programs gave before


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The run before and after every stage, shared by all faults here."""
    return faults_scene.Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def finished(scene):
    """A copy of the audited run that a test may change."""
    workdir = scene.copy(scene.after("audit"))
    yield workdir
    shutil.rmtree(workdir)


def lost(outcomes):
    found = list(outcomes)
    assert found
    return [one for one in found if one]


@pytest.mark.parametrize(
    ("stage", "every"),
    [
        *(("embed", 12), ("audit", 60)),
        pytest.param("heads", 12, marks=pytest.mark.slow),
        *(pytest.param(stage, 1, marks=pytest.mark.slow) for stage in faults_scene.STAGES),
    ],
)
def test_a_stage_whose_nth_write_fails_goes_on(scene, stage, every):
    assert lost(faults_writes.nth(stage, scene, random.Random(every), 1, every)) == []


@pytest.mark.parametrize("name", [name for name, kind in faults_damage.KINDS.items() if faults_damage.CHECK not in kind.readers])
def test_a_flipped_bit_is_refused_or_undone(scene, monkeypatch, name):
    monkeypatch.setattr(faults_damage, "INJURIES", (faults_damage.flipped,))
    assert lost(faults_damage.damaged(faults_damage.KINDS[name], scene, random.Random(name), 1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", faults_damage.KINDS)
def test_a_damaged_file_is_refused_or_made_again(scene, name):
    assert lost(faults_damage.damaged(faults_damage.KINDS[name], scene, random.Random(0), 5)) == []


@pytest.mark.parametrize(
    "name",
    [
        "ledger-rewritten",
        "other-workdir",
        "two-runs",
        "input-vectors",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("other-settings", "other-data")),
    ],
)
def test_what_is_not_this_runs_is_refused(scene, name):
    assert lost(faults.FAULTS[name].tried(scene, random.Random(name), 1)) == []


@pytest.mark.parametrize("stage", ["audit", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("heads", "embed"))])
def test_a_stage_killed_half_way_through_a_write_goes_on(scene, stage):
    assert lost(faults_kills.torn(stage, scene, random.Random(stage), 1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [fault.name for fault in (*faults_kills.FAULTS, *faults.FAMILIES["peers"])])
def test_stopped_processes_lose_nothing(scene, name):
    assert lost(faults.FAULTS[name].tried(scene, random.Random(name), 2)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-files", "full-disk", "read-only", "no-permission"])
def test_places_that_may_not_be_written_lose_nothing(scene, name):
    tally = faults.tallied(faults.FAULTS[name], scene, 1, 2)
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert (tally.tried, tally.losses) == (2, [])


def test_equal_runs_do_not_differ(scene, finished):
    assert faults_judge.differences(scene.after("audit"), finished) == []
    assert faults_judge.half_written([scene.after("audit")], finished) == []


def test_a_changed_byte_is_seen_though_its_digest_was_written_again(scene, finished):
    (shard,) = finished.glob("features/*/images/shard-00000.safetensors")
    arrays = safetensors_numpy.load_file(shard)
    name = next(name for name in arrays if arrays[name].dtype.kind == "f")
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0] += 1e-6
    faults_scene.injure(shard, safetensors_numpy.save(arrays))
    sha256 = digests.file_digest(shard)
    faults_scene.injure(shard.with_suffix(".ok"), f"{sha256}\n".encode())
    manifest = json.loads((shard.parent / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = sha256
    faults_scene.injure(shard.parent / "manifest.json", files.json_bytes(manifest))
    place = shard.parent.relative_to(finished)
    wanted = {f"{place}/{one} differs" for one in ("shard-00000.safetensors", "shard-00000.ok", "manifest.json")}
    assert set(faults_judge.differences(scene.after("audit"), finished)) == wanted


def test_what_is_missing_left_over_or_half_written_is_seen(scene, finished):
    results = sorted(finished.glob("results/*.json"))[0]
    results.unlink()
    (finished / "results" / "other.json").write_text("{}")
    weights = next(path for path in sorted(finished.glob("models/*/tree/**/d/*")))
    faults_scene.injure(weights, weights.read_bytes()[:-1])
    wrong = faults_judge.differences(scene.after("audit"), finished)
    assert wrong == [f"results/{results.name} missing", "results/other.json left over", f"models/{faults_scene.MODEL} cannot be restored"]
    assert faults_judge.half_written([scene.after("audit")], finished) == ["results/other.json half-written", f"results/{results.name} gone"]


def test_a_results_number_and_a_ledgers_claim_are_compared(scene, finished):
    results, ledger = sorted(finished.glob("results/*.json"))[0], finished / "heads" / faults_scene.MODEL / "dp" / "privacy_ledger.json"
    document = json.loads(results.read_text())
    document["metrics"][0]["value"] += 1e-9
    faults_scene.injure(results, files.json_bytes(digests.sealed(document)))
    faults_scene.injure(ledger, ledger.read_bytes().replace(b'"through": 1', b'"through": 2', 1))
    names = [path.relative_to(finished) for path in (ledger, results)]
    assert faults_judge.differences(scene.after("audit"), finished) == [f"{name} differs" for name in names]
    assert faults_judge.half_written([scene.after("audit")], finished) == [f"{names[0]} broken", f"{names[1]} half-written"]


def test_steps_without_a_charge_are_seen(scene):
    ledger = scene.after("heads")
    planned = scene.config.heads.mechanism.iterations
    assert faults_judge.undercharged(ledger, planned) == []
    assert faults_judge.undercharged(ledger, planned + 1) == [f"{planned + 1} steps executed, {planned} charged"]


@pytest.mark.parametrize(
    ("ended", "wrong"),
    [
        (Ended(74, "relink audit: error: write failed in x: expected a, found b\n"), ""),
        (Ended(0, ""), "exit code 0 where 74 is promised"),
        (Ended(74, ""), "no single sentence"),
        (Ended(74, "Traceback\nx: expected a, found b"), "no single sentence"),
        (Ended(70, "x: expected a, found b"), "exit code 70"),
    ],
)
def test_a_refusal_has_its_code_and_its_sentence(ended, wrong):
    found = faults_judge.refused(ended, (74,))
    assert [one[: len(wrong)] for one in found] == ([wrong] if wrong else [])


def test_a_write_that_fails_in_silence_is_lost(scene, monkeypatch):
    """The judge of failing writes against a stage that swallows the error, and one that ends with other numbers."""
    monkeypatch.setattr(faults_writes.files, "fail_at", lambda n: faults_inject.replaced(files, "NAME_BYTES", 255))
    outcomes = lost(faults_writes.nth("embed", scene, random.Random(0), 1, every=24))
    assert len(outcomes) == 1
    assert "exit code 0 where 74 is promised" in outcomes[0]


def test_damage_that_is_believed_is_lost(scene, monkeypatch):
    def believing(stage, workdir):
        (other,) = workdir.glob("results/*__dp__phantom-A-test.parquet")
        faults_scene.injure(other, b"other numbers")
        return Ended(0, "")

    scene.after("audit")
    monkeypatch.setattr(faults_damage, "INJURIES", (faults_damage.emptied,))
    for reader, run, piece in (
        ("audit", believing, "__dp__phantom-A-test.parquet differs"),
        ("embed", lambda *_: Ended(0, ""), "shard-00000.safetensors differs"),
    ):
        monkeypatch.setattr(scene, "run", run)
        kind = faults_damage.Kind("features/*/texts/shard-00000.safetensors", (reader,))
        outcomes = lost(faults_damage.damaged(kind, scene, random.Random(0), 1))
        assert [piece in one for one in outcomes] == [True]


def test_a_refusal_that_changed_something_is_lost(scene, monkeypatch):
    def refusing(stage, workdir):
        (other,) = workdir.glob("results/*__dp__phantom-A-test.parquet")
        other.unlink()
        return Ended(74, "x: expected a, found b")

    scene.after("audit")
    monkeypatch.setattr(faults_damage, "INJURIES", (faults_damage.cut,))
    monkeypatch.setattr(scene, "run", refusing)
    (told,) = lost(faults_damage.damaged(faults_damage.KINDS["shard record"], scene, random.Random(0), 1))
    assert told.endswith("__dp__phantom-A-test.parquet changed by a command that was refused")


def test_an_interruption_is_judged_by_everything_that_is_promised(scene, monkeypatch):
    workdir = scene.copy(scene.after("heads"))
    next(workdir.glob("heads/*/dp/heads.safetensors")).unlink()
    monkeypatch.setattr(scene, "run", lambda stage, workdir: Ended(0, ""))
    told = faults_kills.interrupted(scene, "heads", workdir, Ended(0, ""), faults_kills.KILLED, 99)
    for piece in ("exit code 0 where -9", "99 steps executed, 6 charged", "heads.safetensors missing"):
        assert piece in told
    assert not workdir.exists()


def test_a_known_secret_is_for_the_synthetic_cohort_only(tmp_path):
    from relink_jax import errors
    from relink_jax.stages import faults_child

    (tmp_path / "run.json").write_text(json.dumps({"identity": {"cohort.source": "table"}}))
    with pytest.raises(errors.UsageError, match="synthetic cohort"), faults_child.prepared('{"secret": "00"}', ["heads", f"--workdir={tmp_path}"]):
        pass


def test_copies_share_no_file_that_is_written_in_place(scene):
    one, other = (scene.copy(scene.after("heads")) for _ in range(2))
    shared = {path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.stat().st_nlink > 1}
    assert shared
    assert pathlib.Path(".lock") not in shared
    faults_scene.injure(one / "key", b"x")
    assert (other / "key").stat().st_size == 32
    for workdir in (one, other):
        shutil.rmtree(workdir)


def test_a_soak_counts_runs_faults_and_losses(scene, monkeypatch):
    """With processes that only seem to run: every other run is whole, the rest lack a file."""
    made = []

    def once(scene, stage, workdir, draw, last):
        if not last:
            return Ended(faults_kills.KILLED, ""), faults_kills.signal.SIGKILL
        shutil.rmtree(workdir)
        faults_scene.copied(scene.after(stage), workdir)
        made.append(stage)
        if len(made) % 2 == 0:
            next(workdir.glob("features/*/texts/manifest.json")).unlink()
        return Ended(0, "", peak=len(made)), None

    monkeypatch.setattr(bench_soak, "_once", once)
    soak = bench_soak.Soak(dict.fromkeys(bench_soak.STAGES, 0), {"SIGKILL": 0, "SIGTERM": 0}, [], 0, {stage: [] for stage in bench_soak.STAGES}, 0.0)
    draw = random.Random(5)
    told = [bench_soak.one_run(scene, stage, draw, soak) for stage in ("embed", "heads")]
    assert told == [[], [f"heads: features/{faults_scene.MODEL}/texts/manifest.json missing"]]
    assert soak.runs == {"audit": 0, "heads": 1, "embed": 1}
    assert soak.peaks == {"audit": [], "heads": [2], "embed": [1]}
    assert 0 < soak.faults["SIGKILL"] <= 2 * bench_soak.MOST


@pytest.mark.slow
def test_a_soak_of_a_minute_loses_nothing(scene):
    soak = bench_soak.measure(1, 1, scene)
    assert soak.losses == []
    assert sum(soak.runs.values()) > 0
    assert all(peak > 2**20 for peaks in soak.peaks.values() for peak in peaks)
