"""Nothing of an archive leaves the restricted directories: canary words in ids, paths, texts and cells, and every byte that a run wrote or printed.

One road is run once, in a process whose umask hides nothing and partly in another one that is asked to say all it can, in a directory that
is full of files with the names of libraries. A training run is killed on the way.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import pickle
import random
import re
import shutil
import subprocess
import sys

import canaries
import numpy as np
import pyarrow.parquet as pq
import pytest
from canaries import found_in, holds, planted, spoken
from own_archive import write

import relink_jax
from relink_jax import cli, config, errors
from relink_jax.privacy import noise, randomness, training
from relink_jax.stages import context, heads
from relink_jax.stages.catalogue import STAGES
from relink_jax.store import checkpoints, digests, files, restricted

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")
FAST = [
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.bootstrap_replicates=100", "--config.audit.pool_sizes=3", "--config.audit.ks=1", "--config.embed.batch_size=8"),
    *("--config.models=phantom-0-untrained", "--config.mitigate=phantom-0-untrained", "--config.arms=original,dp", "--config.embed.anchors=32"),
    *("--config.heads.mechanism.iterations=4", "--config.heads.performance.checkpoint_every=1", "--config.heads.noise_draws=1"),
    *("--config.probe.bootstrap_replicates=100", "--config.probe.max_iterations=5", "--config.probe.l2_grid=1"),
    *("--config.controls.seeds=1", "--config.controls.probe_seeds=0", "--config.controls.only=rotation,dp_0.34", "--config.controls.epsilons=0.34"),
    "--config.report.headline_pool=3",
]
SCANNED = ("cohort", "convert", "embed", "heads", "audit", "probe", "report")
SCANNED_SLOWLY = ("accountants", "controls", "demo", "plan")
NOT_SCANNED = {
    "bench": "measures speed on seeded arrays, or on a workdir that it fills with synthetic patients",
    "cluster": "says what it sees of the cluster, reads no workdir",
    "sweep": "runs the other stages, each in the workdir of a model, and puts their figures in a table",
}
DRIVER = """
import sys
from relink_jax import cli
if __name__ == "__main__":
    print([cli.main(words.split("\\t")) for words in sys.argv[1:]])
"""
TALKATIVE = {
    **{"JAX_LOGGING_LEVEL": "DEBUG", "JAX_LOG_COMPILES": "1", "TF_CPP_MIN_LOG_LEVEL": "0", "TRANSFORMERS_VERBOSITY": "debug", "PYTHONWARNINGS": "always"},
    **{"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "RELINK_PROGRESS": "1"},
}
SHADOWS = ("jax", "numpy", "multiprocessing", "pickle", "socket", "launch", "configs", "usercustomize", "sitecustomize", "transformers", "absl")


@dataclasses.dataclass
class Road:
    """What a finished road left: its directory, flags, everything printed, every secret drawn, and the workdir as it was when training was killed."""

    root: pathlib.Path
    flags: list[str]
    told: str
    secrets: list[bytes]
    killed: dict[str, bytes]

    @property
    def workdir(self) -> pathlib.Path:
        return self.root / "w"

    def open_files(self) -> list[pathlib.Path]:
        """Returns every file outside the restricted class, those beside the workdir that commands were asked to write too."""
        held = {entry["file"] for entry in restricted.manifest(self.workdir)["files"]}
        inside = [path for path in self.workdir.rglob("*") if path.is_file() and path.relative_to(self.workdir).as_posix() not in held]
        return [*inside, *(self.root / "told").iterdir()]


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def elsewhere(root: pathlib.Path, *commands: list[str]) -> str:
    """Returns what another process printed on its descriptors, with `root/cwd` as its directory and `root/bin` in the place of the console script."""
    (root / "cwd").mkdir()
    (root / "bin").mkdir()
    (root / "bin" / "driver.py").write_text(DRIVER)
    for name in SHADOWS:
        (root / "cwd" / f"{name}.py").write_text(f"open({str(root / 'shadowed')!r}, 'a').write({name!r})\nraise ImportError\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELINK")} | TALKATIVE
    environment["PYTHONPATH"] = str(pathlib.Path(relink_jax.__file__).parent.parent)
    words = ["\t".join(command) for command in commands]
    done = subprocess.run([sys.executable, str(root / "bin" / "driver.py"), *words], cwd=root / "cwd", env=environment, capture_output=True)
    told = (done.stdout + done.stderr).decode()
    assert f"[{', '.join('0' * len(commands))}]" in told, told
    return told


@contextlib.contextmanager
def kept_secrets(dying_at: int = 0):
    """Gives the secrets that are drawn inside; the training run dies at that step of noise, as if stopped at once, where it is not 0."""
    drawn, steps, fresh, sound = [], [], randomness.fresh, noise.add_noise

    def remembered(*given):
        drawn.append(fresh(*given))
        return drawn[-1]

    def dying(*given):
        steps.append(1)
        if len(steps) == dying_at:
            raise KeyboardInterrupt
        return sound(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "fresh", remembered)
        patch.setattr(noise, "add_noise", dying)
        yield drawn


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Returns the `Road`, run once with umask 000."""
    root = tmp_path_factory.mktemp("canaries")
    before = os.umask(0)
    try:
        yield road(root)
    finally:
        os.umask(before)


def road(root: pathlib.Path) -> Road:
    flags, beside = planted(root, 32), root / "told"
    beside.mkdir()
    here = flags[-1]
    told, codes = spoken(
        ["cohort", "check", *flags[:-1], f"--csv={beside / 'check.csv'}"],
        ["cohort", "report", *flags[:-1], f"--json={beside / 'counts.json'}", f"--csv={beside / 'counts.csv'}"],
        ["cohort", *flags, *FAST],
        ["convert", here],
        ["cohort", "build", here, "--workers=1", "--shard_rows=16"],
    )
    assert codes == [0] * len(codes), told
    told += elsewhere(root, ["embed", here])
    with kept_secrets(dying_at=3) as first:
        stopped, code = spoken(["heads", here])
    assert code == [75], stopped
    killed = contents(root / "w")
    with kept_secrets() as second:
        rest, codes = spoken(*([stage, here] for stage in ("heads", "audit", "probe", "report")))
    assert codes == [0] * len(codes), rest
    return Road(root, flags, told + stopped + rest, [one.seed for one in (*first, *second)], killed)


def test_every_stage_is_scanned_or_has_a_reason():
    assert set(STAGES) <= {*SCANNED, *SCANNED_SLOWLY, *NOT_SCANNED}
    assert not {*SCANNED, *SCANNED_SLOWLY} & set(NOT_SCANNED)


def test_no_command_prints_any(ran):
    assert found_in(ran.told.encode()) == []
    assert "jax" in ran.told  # the other process did talk


def test_no_file_outside_the_restricted_ones_holds_any(ran):
    assert len(ran.open_files()) > 12
    for path in ran.open_files():
        assert found_in(path.read_bytes()) == [], path.name
    assert found_in("\n".join(path.relative_to(ran.root).as_posix() for path in ran.workdir.rglob("*")).encode()) == []


def test_the_canaries_are_where_they_may_be(ran):
    texts = [(ran.workdir / entry["file"]).read_bytes() for entry in restricted.manifest(ran.workdir)["files"]]
    assert any(b"canaryword" in text for text in texts)


def test_every_file_has_a_class(ran):
    assert [name for name in contents(ran.workdir) if not restricted.class_of(name)] == []


def test_files_are_private_whatever_the_umask(ran):
    assert os.umask(0) == 0
    for path in (ran.workdir, *ran.workdir.rglob("*")):
        assert path.stat().st_mode & 0o7777 == (0o700 if path.is_dir() else 0o600), path.name


def test_nothing_is_imported_from_the_current_directory(ran):
    assert not (ran.root / "shadowed").exists()
    assert sorted(path.stem for path in (ran.root / "cwd").iterdir()) == sorted(SHADOWS)


def test_the_key_is_in_its_file_only(ran):
    key = (ran.workdir / "key").read_bytes()
    assert len(key) == 32
    assert [name for name, content in contents(ran.workdir).items() if holds(content, key)] == ["key"]
    assert holds(ran.told.encode(), key) == []
    assert [path.name for path in (ran.root / "told").iterdir() if holds(path.read_bytes(), key)] == []


def pseudonyms(workdir: pathlib.Path) -> set[str]:
    """Returns every text of 16 hexadecimal digits in the tables, results and pages of a workdir."""
    found: set[str] = set()
    for path in workdir.rglob("*.parquet"):
        for column in pq.read_table(path).to_pydict().values():
            found |= {value for value in column if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value)}
    for path in (*workdir.rglob("*.json"), *workdir.rglob("*.html")):
        found |= set(re.findall(r"(?<![0-9a-f.])[0-9a-f]{16}(?![0-9a-f])", path.read_text()))
    return found


def test_pseudonyms_are_keyed_and_of_no_use_in_another_workdir(ran, tmp_path):
    rows = canaries.rows_of(ran.root)
    raw = {row[column] for row in rows for column in canaries.IDS} | {f"{row['findings']} {row['impression']}" for row in rows}
    key = (ran.workdir / "key").read_bytes()
    found = pseudonyms(ran.workdir)
    assert len(found) >= 3 * len(rows)
    assert found <= {digests.keyed(key, one) for one in raw}
    spoken(["cohort", *ran.flags[:-1], *FAST, f"--workdir={tmp_path / 'w'}"])
    other = pseudonyms(tmp_path / "w")
    assert len(other) >= 3 * len(rows)
    assert not other & found
    unkeyed = {hashlib.new(name, text.encode()).hexdigest()[:16] for text in raw for name in ("sha256", "sha1", "md5", "blake2b")}
    written = b"".join(path.read_bytes() for path in ran.open_files())
    assert not found & unkeyed
    assert not any(one.encode() in written for one in unkeyed)


def test_while_training_is_unfinished_its_secret_lies_in_the_private_state_only(ran):
    assert len(ran.secrets) == 1  # the killed run goes on with its own
    held = {name: forms for name, content in ran.killed.items() if (forms := holds(content, ran.secrets[0]))}
    (state,) = held
    assert re.fullmatch(r"heads/phantom-0-untrained/dp/training_state-\d+\.safetensors", state)
    assert restricted.class_of(state) == "restricted"


def test_when_training_is_done_its_secret_is_nowhere(ran):
    for secret in ran.secrets:
        assert [name for name, content in contents(ran.workdir).items() if holds(content, secret)] == []
        assert holds(ran.told.encode(), secret) == []


def trained(ran, seed):
    """Returns kernels of the private arm as the stage trains it, with every experiment's and every global seed set to `seed`."""
    recorded = (ran.workdir / "config.json").read_bytes()
    run = cli.load_config(ran.workdir / "config.json")
    run.audit.seed = run.cohort.phantom.seed = seed
    random.seed(seed)
    np.random.seed(seed)
    with context.opened(run, ran.workdir) as found:
        given = heads.prepared(run, found, context.load_cohort(found), "dp")
    files.write_bytes(ran.workdir / "config.json", recorded)
    made = training.train_heads(given.initial, given.records, given.units, given.bank, given.options).heads
    return np.concatenate([made[side]["kernel"].ravel() for side in sorted(made)])


def test_no_seed_of_an_experiment_feeds_the_noise(ran, monkeypatch):
    assert [field.path for field in config.fields(config.RunConfig().heads) if "seed" in field.path] == []
    first, second = trained(ran, 1), trained(ran, 1)
    assert not np.array_equal(first, second)
    monkeypatch.setattr(randomness.secrets, "token_bytes", lambda size: bytes(range(size)))
    np.testing.assert_array_equal(trained(ran, 1), trained(ran, 2))


def test_a_foreign_pickle_in_a_checkpoint_is_not_read(ran, tmp_path):
    shutil.copytree(ran.workdir / "models" / "phantom-0-untrained", tmp_path / "model")
    (tmp_path / "marks").mkdir()
    mark = tmp_path / "marks" / "mark"
    whole = checkpoints.tree_digest(checkpoints.restore(tmp_path / "model")[0])
    for name, bomb in canaries.bombs(mark).items():
        content = pickle.dumps(bomb, protocol=2)
        assert canaries.goes_off(mark, content)
        for place in (f"{name}.pkl", "checkpoint", "tree/_METADATA.pkl", f"tree/d/{name}", "tree/params.pickle"):
            (tmp_path / "model" / place).write_bytes(content)
    assert checkpoints.tree_digest(checkpoints.restore(tmp_path / "model")[0]) == whole
    (tmp_path / "model" / "tree" / "checkpoint").write_bytes(content)  # where Orbax looks for the msgpack of its early releases
    with pytest.raises(errors.StoreError, match="expected an Orbax tree"):
        checkpoints.restore(tmp_path / "model")
    for path in (tmp_path / "model" / "tree").iterdir():
        if path.is_file():
            path.write_bytes(content)
    with pytest.raises(errors.StoreError, match="checkpoint corrupted"):
        checkpoints.restore(tmp_path / "model")
    assert list((tmp_path / "marks").iterdir()) == []


BREAKAGES = {
    "duplicate pair": lambda rows: rows.append(dict(rows[0])),
    "patient in two splits": lambda rows: rows[1].update(split="test"),
    "study of two patients": lambda rows: rows[1].update(study_id=rows[0]["study_id"]),
    "label": lambda rows: rows[2].update({"No Finding": "canaryword"}),
    "view": lambda rows: rows[3].update(view="canaryword"),
    "path": lambda rows: rows[4].update(image_path="../canaryfolder/x.png"),
    "missing file": lambda rows: rows[5].update(image_path="canaryfolder/gone.png"),
    "text": lambda rows: rows[6].update(study_id=rows[7]["study_id"], patient_id=rows[7]["patient_id"], split=rows[7]["split"]),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_no_refusal_repeats_any(tmp_path, what):
    planted(tmp_path)
    rows = canaries.rows_of(tmp_path)
    BREAKAGES[what](rows)
    flags = write(tmp_path, rows)
    told, codes = spoken(["cohort", "check", *flags[:-1]], ["cohort", *flags])
    assert codes == [65, 65], told
    assert found_in(told.encode()) == []
    assert "error" in told


@pytest.mark.parametrize("stage", [*SCANNED, "controls", "demo"])
def test_an_unexpected_error_is_told_by_type_and_place(ran, monkeypatch, stage):
    def broken(*_):
        try:
            raise KeyError("canarypatient7")
        except KeyError as error:
            raise ValueError("canaryword of canarystudy3 in /canaryfolder/3.png") from error

    monkeypatch.setattr(files, "read_with", broken)
    monkeypatch.delenv("RELINK_DEBUG", raising=False)
    told, codes = spoken([stage, f"--workdir={ran.workdir}", *(["--config=demo_small"] if stage == "demo" else [])])
    assert codes == [70], told
    place = rf"relink {stage}: internal error: ValueError at {pathlib.Path(__file__).name}:\d+; set RELINK_DEBUG=1 for the trace\n"
    assert re.fullmatch(place, told), told


@pytest.mark.slow
def test_the_long_stages_print_and_leave_none(ran):
    beside = [f"--{kind}={ran.root / 'told' / f'accounts.{end}'}" for kind, end in (("page", "html"), ("json", "json"))]
    commands = [["accountants", "compare", str(ran.workdir / "heads"), *beside], ["plan", "audit", "embed", "heads", ran.flags[-1]]]
    told, codes = spoken(*([stage, ran.flags[-1]] for stage in ("controls", "demo")), *commands)
    assert codes[:3] == [0, 0, 0], told
    assert found_in(told.encode()) == []
    test_no_file_outside_the_restricted_ones_holds_any(ran)
    test_every_file_has_a_class(ran)
    test_files_are_private_whatever_the_umask(ran)
    test_the_key_is_in_its_file_only(ran)
