"""What a process's log holds and what never gets in; the watchdog that writes to it; and where compiled programs are kept."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from relink_jax import cli, config, errors
from relink_jax.runtime import compile_cache, logs, progress
from relink_jax.stages import cluster as stage
from relink_jax.stages import launching
from relink_jax.store import files, restricted

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def made(root):
    (root / "run.json").write_text("{}")
    (root / "config.json").write_text(json.dumps(config.to_dict(config.RunConfig())))


@pytest.fixture
def workdir(tmp_path):
    """A directory that looks like a run's, with some work in it."""
    made(tmp_path)
    (tmp_path / "cohort").mkdir()
    return tmp_path


def lines(workdir, name="cluster-process-00000.log"):
    return [json.loads(line) for line in (workdir / "logs" / name).read_text().splitlines()]


def test_a_command_is_logged_with_progress_and_its_end(workdir, monkeypatch):
    monkeypatch.setattr(logs, "EVERY", 0.0)

    def work(*_):
        with progress.bar(np.int64(10), "embed images", "images", first=2) as bar:
            bar.update(np.int64(3))
            with progress.quiet(), progress.bar(2, "inner") as inner:
                inner.update(1)
        return "done"

    monkeypatch.setattr(stage, "run", work)
    monkeypatch.setattr(stage, "describe", str)
    assert cli.main(["cluster", f"--workdir={workdir}"]) == 0
    begun, moved, inner, ended = lines(workdir)
    assert (begun["event"], begun["stage"], begun["process"], begun["processes"]) == ("started", "cluster", 0, 1)
    assert begun["versions"]["jax"] == __import__("jax").__version__
    assert (moved["event"], moved["what"], moved["done"], moved["total"]) == ("progress", "embed images", 5, 10)
    assert moved["rate"] > 0
    assert inner["what"] == "inner"
    assert (ended["event"], ended["exit_code"]) == ("finished", 0)
    assert ended["seconds"] >= 0


def test_progress_is_logged_once_in_a_while():
    log = logs.Log(lambda: None)
    with logs.kept(log):
        for _ in progress.track(range(1000), 1000, "steps"):
            pass
    assert log._kept == []


@pytest.mark.parametrize(
    ("error", "event", "code", "message"),
    [
        (errors.DataError(errors.describe("value", "column 'CANARY'", "a number", "CANARY 17")), "failed", 65, "value in column ..."),
        (errors.StoppedError("work stopped as asked; everything finished is kept"), "stopped", 75, "work stopped as asked; everything finished is kept"),
        (RuntimeError("CANARY"), "failed", 70, "internal error: RuntimeError at test_logs.py:"),
        (KeyboardInterrupt(), "stopped", 75, "stopped at once"),
    ],
)
def test_an_ending_is_logged_without_what_the_user_or_the_data_said(workdir, monkeypatch, error, event, code, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(stage, "run", fail)
    assert cli.main(["cluster", f"--workdir={workdir}", "--config.name=CANARY"]) == code
    ended = lines(workdir)[-1]
    assert (ended["event"], ended["exit_code"]) == (event, code)
    assert ended["message"].startswith(message)
    text = (workdir / "logs" / "cluster-process-00000.log").read_text()
    assert "CANARY" not in text
    assert workdir.name not in text
    assert restricted.class_of("logs/cluster-process-00000.log") == restricted.AGGREGATE


def test_a_log_grows_is_moved_aside_when_large_and_never_stops_the_work(workdir, monkeypatch):
    monkeypatch.setattr(stage, "run", lambda *_: "done")
    monkeypatch.setattr(stage, "describe", str)
    for _ in range(2):
        assert cli.main(["cluster", f"--workdir={workdir}"]) == 0
    assert [line["event"] for line in lines(workdir)] == ["started", "finished"] * 2
    monkeypatch.setattr(launching, "LOG_BYTES", 100)
    assert cli.main(["cluster", f"--workdir={workdir}"]) == 0
    assert (len(lines(workdir)), len(lines(workdir, "cluster-process-00000.log.1"))) == (2, 4)
    full = logs.Log(lambda: files.open_private(pathlib.Path("/dev/full")))
    full.started("audit", 0, 1, {})
    full.ended(0, "")


def test_a_workdir_without_work_gets_no_log(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "run", lambda *_: "done")
    monkeypatch.setattr(stage, "describe", str)
    for make in (lambda root: None, made):
        make(tmp_path)
        assert cli.main(["cluster", f"--workdir={tmp_path}"]) == 0
        assert not (tmp_path / "logs").exists()
    assert cli.main(["cluster"]) == 0


def test_a_process_that_hangs_writes_its_stacks_and_exits_70(tmp_path):
    code = """
import sys, threading, time
from relink_jax.runtime import logs, watchdog
def waiting_in_a_thread():
    time.sleep(60)
threading.Thread(target=waiting_in_a_thread, daemon=True).start()
log = open(sys.argv[1] + "/raw", "w") if sys.argv[2] == "raw" else logs.Log(lambda: open(sys.argv[1] + "/json", "a")).stuck
with watchdog.watching(0.4, log):
    for _ in range(8):
        time.sleep(0.1)
        watchdog.beat()
    print("moved", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kind in ("raw", "json"):
        command = [sys.executable, "-c", code, str(tmp_path), kind]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (70, "moved\n"), done.stderr
        assert "nothing moved for 0.4 s" in done.stderr
        assert "waiting_in_a_thread" in done.stderr
    assert "waiting_in_a_thread" in (tmp_path / "raw").read_text()
    stuck = json.loads((tmp_path / "json").read_text())
    assert stuck["event"] == "stuck"
    assert any("waiting_in_a_thread" in line for line in stuck["stacks"])
    assert str(ROOT) not in json.dumps(stuck)


@pytest.mark.parametrize(
    ("choice", "workdir", "environment", "accelerator", "expected"),
    [
        ("auto", "w", {}, True, "w/xla_cache"),
        ("auto", "w", {}, False, None),
        ("auto", "", {}, True, None),
        ("auto", "w", {"JAX_PLATFORMS": "cpu"}, True, None),
        ("auto", "w", {"CUDA_VISIBLE_DEVICES": ""}, True, None),
        ("none", "w", {}, True, None),
        ("kept", "", {"JAX_PLATFORMS": "cpu"}, False, "kept"),
    ],
)
def test_where_compiled_programs_are_kept(choice, workdir, environment, accelerator, expected):
    found = compile_cache.directory(choice, workdir, environment, accelerator)
    assert found == (None if expected is None else pathlib.Path(expected))


def test_compiled_programs_are_kept_where_asked_and_for_their_owner_only(tmp_path, monkeypatch):
    import jax

    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *compile_cache.SMALL)}
    monkeypatch.setattr(stage, "run", lambda *_: float(jax.jit(lambda x: x * 3 + 17)(np.float32(4))))
    monkeypatch.setattr(stage, "describe", str)
    try:
        assert cli.main(["cluster", f"--compile_cache={tmp_path / 'kept'}"]) == 0
        assert list((tmp_path / "kept").iterdir())
        assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()
    assert restricted.class_of("xla_cache/jit_f-cache") == restricted.RESTRICTED
    assert restricted.class_of("together/abc-0000-00000") == restricted.PUBLIC
