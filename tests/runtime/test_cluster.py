"""Several processes of one command: what flags may say, two real processes, and what is refused before any work."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from relink_jax import cli, config, errors
from relink_jax.runtime import cluster
from relink_jax.runtime.cluster import Settings

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAIR = Settings(coordinator="host:1234", processes=2, process=1)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def started(words, environment, entry=("-m", "relink_jax")):
    """Returns a started `relink`, or another entry of Python, with 4 devices; its output goes through pipes."""
    variables = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *entry, *words]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(children):
    """Returns [(exit code, stdout, stderr)] of the children, none of which may outlive the test."""
    try:
        return [(child.returncode, out, err) for child in children for out, err in [child.communicate(timeout=120)]]
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes by flags in one directory that looks like a run's, and what they said."""
    root = tmp_path_factory.mktemp("pair")
    root.chmod(0o700)
    (root / "run.json").write_text("{}")
    (root / "config.json").write_text(json.dumps(config.to_dict(config.RunConfig())))
    (root / "cohort").mkdir()
    port = free_port()
    words = ["cluster", f"--coordinator=127.0.0.1:{port}", "--processes=2", "--expect_devices=8", "--expect_processes=2", f"--workdir={root}"]
    return root, finished([started([*words, f"--process={process}"], {}) for process in range(2)])


def test_two_processes_sum_over_all_devices_and_see_one_directory(pair):
    root, ran = pair
    assert [code for code, _, _ in ran] == [0, 0], ran
    told = [" ".join(line.split()) for line in ran[0][1].splitlines()]
    assert "devices 8 of kind cpu; 4 on each process" in told
    assert "sum 36 over all devices, as expected" in told
    assert "workdir written and seen by all 2 processes" in told
    assert not list(root.glob(".cluster*"))


def test_only_process_0_prints_what_was_found(pair):
    assert "processes" not in pair[1][1][1]


def test_each_process_keeps_a_private_log_of_its_own(pair):
    root, _ = pair
    names = sorted(path.name for path in (root / "logs").iterdir())
    assert names == ["cluster-process-00000.log", "cluster-process-00001.log"]
    assert (root / "logs").stat().st_mode & 0o777 == 0o700
    for process, name in enumerate(names):
        assert (root / "logs" / name).stat().st_mode & 0o777 == 0o600
        lines = [json.loads(line) for line in (root / "logs" / name).read_text().splitlines()]
        assert [line["event"] for line in lines] == ["started", "devices", "finished"]
        assert (lines[0]["process"], lines[0]["processes"], lines[1]["local_devices"], lines[1]["devices"]) == (process, 2, 4, 8)
        assert lines[2]["exit_code"] == 0
        assert lines[2]["peak_bytes"] > 10**7
        assert root.name not in (root / "logs" / name).read_text()


def test_a_rehearsed_slurm_step_that_lacks_devices_ends_in_one_sentence_of_each_process():
    step = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": "2", "JAX_COORDINATOR_PORT": str(free_port())}
    begun = time.monotonic()
    places = [step | {"SLURM_PROCID": process, "SLURM_LOCALID": process} for process in "01"]
    ran = finished([started(["cluster", "--expect_devices=9"], place) for place in places])
    assert [(code, out.replace("[Gloo]", "").count("devices")) for code, out, _ in ran] == [(2, 0), (2, 0)], ran
    sentence = "error: devices in all processes: expected --expect_devices=9, found 8 of kind cpu\n"
    assert [err.splitlines(keepends=True)[-1] for _, _, err in ran] == [f"relink cluster: {sentence}", f"relink cluster (process 1): {sentence}"]
    assert time.monotonic() - begun < 100


def test_a_process_whose_peers_do_not_come_ends_in_one_sentence_and_not_in_an_abort():
    words = ["cluster", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--process=0", "--init_timeout=1"]
    code, _, err = finished([started(words, {})])[0]
    assert code == 70, err
    assert err.splitlines()[-1].endswith("expected 2 processes at one coordinator, found fewer after 1 s; --cluster=none runs alone")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(method="slrum"), "did you mean 'slurm'?"),
        (Settings(method="slurm"), "a process that srun started, found no SLURM_JOB_ID"),
        (Settings(method="ompi"), "a process that mpirun started"),
        (Settings(method="gke"), "TPU_WORKER_ID"),
        (Settings(method="mpi4py"), "the package mpi4py, found none"),
        (Settings(method="k8s"), "the package kubernetes, found none"),
        (Settings(method="explicit"), "HOST:PORT of process 0, found nothing"),
        (Settings(method="slurm", coordinator="host:1"), "--coordinator, --processes and --process together"),
        (Settings(processes=2, process=0), "--coordinator, --processes and --process together"),
        (Settings(coordinator="host:1", processes=2), "--processes=2 and --process=nothing"),
        (Settings(coordinator="host:1", processes=2, process=2), "with I from 0 to N-1"),
        (Settings(coordinator="host", processes=2, process=0), "HOST:PORT"),
        (Settings(coordinator="host:99999", processes=2, process=0), "HOST:PORT"),
    ],
)
def test_flags_that_contradict_each_other_or_the_environment_are_refused(settings, told, monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UsageError) as raised:
        cluster.placed(settings, {}, tpu_vm=False)
    assert told in str(raised.value)


def test_flags_go_before_the_environment():
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}
    found = cluster.placed(PAIR, step, tpu_vm=False)
    assert (found.method, found.coordinator, found.processes, found.process, found.local_devices) == ("explicit", "host:1234", 2, 1, None)
    assert cluster.placed(Settings(method="none"), step, tpu_vm=False).processes == 1
    assert cluster.placed(Settings(local_devices=(0, 2)), step, tpu_vm=False).local_devices == (0, 2)
    one = cluster.placed(Settings(method="one"), step, tpu_vm=False)
    assert (one.processes, one.process, one.coordinator.rpartition(":")[0]) == (1, 0, "127.0.0.1")


def test_alone_nothing_is_initialised_and_counts_are_checked(capsys):
    import jax

    assert cli.main(["cluster", "--expect_devices=8", "--expect_processes=1"]) == 0
    assert "none: nothing in the environment" in capsys.readouterr().out
    assert not jax.distributed.is_initialized()
    for flag, told in (("--expect_devices=9", "found 8 of kind cpu"), ("--expect_processes=2", "found 1")):
        assert cli.main(["cluster", flag]) == 2
        assert told in capsys.readouterr().err


def test_a_task_that_sees_other_gpus_than_slurm_gave_it_is_refused_before_any_work():
    given = cluster.Place("slurm", "", "", 2, 0, (0,), share=8)
    with pytest.raises(errors.UsageError, match="expected 8 GPUs, which --cluster=slurm"):
        cluster._check_devices(Settings(), given)
    cluster._check_devices(Settings(expect_devices=8), given)


def test_a_runtime_asked_for_after_devices_were_counted_is_refused_in_one_sentence(capsys):
    import jax

    assert jax.device_count() == 8
    assert cli.main(["cluster", "--cluster=one"]) == 70
    assert "found devices that were counted before" in capsys.readouterr().err


@pytest.mark.parametrize(("ends", "ended"), [(True, False), (False, True)])
def test_a_process_that_failed_gives_the_others_a_moment_and_then_ends(monkeypatch, ends, ended):
    import jax

    monkeypatch.setattr(cluster, "_started", [cluster.Place("explicit", "", "", 2, 1)])
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: time.sleep(0 if ends else 20))
    codes = []
    monkeypatch.setattr(cluster.os, "_exit", codes.append)
    begun = time.monotonic()
    assert cluster.leave(65, 0.3) == 65
    assert codes == [65] * ended
    assert time.monotonic() - begun < 5


CHILD = """
import dataclasses, sys, time
from relink_jax import cli, errors
from relink_jax.runtime import stopping
from relink_jax.stages import catalogue, cluster

def run(*_):
    import jax
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices("both are there")
    print("ready", flush=True)
    if sys.argv[1] == "fails" and jax.process_index() == 1:
        raise errors.DataError("one failed")
    while True:
        stopping.check("work") if sys.argv[1] == "stops" else time.sleep(0.1)

cluster.run = run
catalogue.STAGES["cluster"] = dataclasses.replace(catalogue.STAGES["cluster"], safe_points=("",))
sys.exit(cli.main(["cluster", *sys.argv[2:]]))
"""


def _two(kind, *words):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--heartbeat_timeout=10", *words]
    return [started([*flags, f"--process={process}"], {}, ["-c", CHILD, kind]) for process in range(2)]


def _wait_for(child):
    while child.stdout.readline() not in ("ready\n", ""):  # past what the collectives print
        pass


@pytest.mark.slow
def test_who_waits_for_a_process_that_failed_is_ended_too():
    ran = finished(_two("fails"))
    assert ran[1][0] == 65, ran
    assert ran[0][0] in (-6, 134), ran
    assert "relink cluster (process 1): error: one failed\n" in ran[1][2]


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_both():
    children = _two("stops")
    for child in children:
        _wait_for(child)
    children[1].terminate()
    ran = finished(children)
    assert [code for code, _, _ in ran] == [75, 75], ran
    assert all("work stopped as asked" in err for _, _, err in ran)


def test_a_directory_that_is_not_shared_or_not_writable_is_found(tmp_path, monkeypatch, capsys):
    from relink_jax.stages import cluster as stage

    monkeypatch.setattr(stage, "SEEN_WITHIN", 0.0)
    monkeypatch.setattr(stage.os, "listdir", lambda root: [])
    assert cli.main(["cluster", f"--workdir={tmp_path / 'new'}"]) == 74
    assert "workdir not shared" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert cli.main(["cluster", f"--workdir={tmp_path / 'file'}"]) == 74
    assert "a directory that all 1 processes can write" in capsys.readouterr().err
