"""The scripts of launch/cluster with fake schedulers: what they run, and what they do with every exit code."""

import re
import signal
import time

import pytest
from fakes import CLUSTER, ROOT, Fakes

from relink_jax.stages import launch_words

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_SUBMIT_DIR": str(ROOT)}
PROXY = {"https_proxy": "http://proxy:3128"}


@pytest.fixture
def fakes(tmp_path):
    found = Fakes(tmp_path)
    found.add("relink")
    found.add("sleep", answer=": ${1:-}")
    return found


def until_done(fakes, codes, *flags):
    fakes.add("relink", codes)
    code, _, said = fakes.run("until_done.sh", *flags, "relink", "audit", "--workdir=a b")
    return code, fakes.calls("relink"), said


@pytest.mark.parametrize("code", [0, 2, 65, 126, 127])
def test_final_codes_are_final(fakes, code):
    assert until_done(fakes, str(code))[:2] == (code, ["relink audit --workdir=a b"])


@pytest.mark.parametrize("code", [70, 74, 134, 137, 1])
def test_faults_are_tried_again_up_to_a_limit(fakes, code):
    ended, calls, said = until_done(fakes, str(code), "--retries=2")
    assert (ended, len(calls)) == (code, 3)
    assert "no try left of 2" in said
    assert fakes.calls("sleep") == ["sleep 10", "sleep 20"]


def test_stops_do_not_count_as_faults(fakes):
    assert until_done(fakes, "75 134 75 143 75 70 0", "--retries=2")[0] == 0
    assert len(fakes.calls("relink")) == 7
    assert until_done(fakes, "75 134 70 0", "--retries=1")[0] == 70


def test_a_stop_is_left_where_asked_and_late_faults_become_one(fakes):
    assert until_done(fakes, "75 0", "--stopped=leave")[:2] == (75, ["relink audit --workdir=a b"])
    assert until_done(fakes, "134 0", f"--until={int(time.time()) - 1}")[0] == 75
    assert until_done(fakes, "134 0", f"--until={int(time.time()) + 1000}")[0] == 0
    assert until_done(fakes, "0", "--until=1")[0] == 0, "the first try always begins"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_command_and_nothing_is_run_again(fakes, number):
    fakes.add("relink", answer='trap \'echo told >>"$HOME/calls"; exit 75\' TERM; echo $$ >"$HOME/pid"; while :; do /bin/sleep 0.05; done')
    process = fakes.start("until_done.sh", "relink", "audit")
    until = time.monotonic() + 20
    while not (fakes.directory / "pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert fakes.calls() == ["relink audit", "told"]


@pytest.mark.parametrize("words", [("--retries=x", "relink"), ("--nonsense", "relink"), ()])
def test_wrong_flags_are_refused(fakes, words):
    code, _, said = fakes.run("until_done.sh", *words)
    assert code == 2
    assert "expected" in said
    assert fakes.calls() == []


def test_slurm_runs_one_command_over_all_tasks(fakes):
    fakes.add("srun", answer='echo "proxy=${https_proxy:-none} cpus=${SRUN_CPUS_PER_TASK:-none}"')
    code, out, _ = fakes.run("slurm.sbatch", "audit", "--workdir=/shared/out", SLURM_CPUS_PER_TASK="8", **JOB, **PROXY)
    assert (code, out) == (0, "proxy=none cpus=8\n")
    flags = "--cluster=slurm --expect_processes=16 --expect_devices=16"
    assert fakes.calls() == [f"srun --kill-on-bad-exit=0 --wait=600 relink audit --workdir=/shared/out {flags}"]


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({"SLURM_NTASKS": "2"}, "--expect_processes=2 --expect_devices=16"),  # one task per node
        ({"SLURM_GPUS_ON_NODE": "", "SLURM_GPUS_PER_NODE": "h100:4"}, "--expect_processes=16 --expect_devices=8"),
        ({"SLURM_GPUS_ON_NODE": ""}, "--expect_processes=16"),
    ],
)
def test_slurm_expects_what_the_job_has(fakes, changed, flags):
    fakes.add("srun")
    assert fakes.run("slurm.sbatch", "relink", "embed", **(JOB | changed))[0] == 0
    assert fakes.calls("srun")[0].endswith(f"relink embed --cluster=slurm {flags}")


def test_flags_that_the_user_gives_win(fakes):
    fakes.add("srun")
    fakes.run("slurm.sbatch", "audit", "--cluster=mpi4py", "--expect_devices", "4", **JOB)
    assert fakes.calls("srun")[0].endswith("relink audit --cluster=mpi4py --expect_devices 4 --expect_processes=16")


@pytest.mark.parametrize(
    ("codes", "ended", "tries", "requeued"),
    [("0", 0, 1, 0), ("2", 2, 1, 0), ("65", 65, 1, 0), ("75", 75, 1, 1), ("134 75", 75, 2, 1), ("134 0", 0, 2, 0), ("70", 70, 3, 0), ("74", 74, 3, 0)],
)
def test_slurm_requeues_stops_and_only_those(fakes, codes, ended, tries, requeued):
    fakes.add("srun", codes)
    fakes.add("scontrol")
    assert fakes.run("slurm.sbatch", "audit", RELINK_RETRIES="2", **JOB)[0] == ended
    assert len(fakes.calls("srun")) == tries
    assert fakes.calls("scontrol") == ["scontrol requeue 7"] * requeued


def test_slurm_leaves_a_fault_near_the_time_limit_to_the_next_turn(fakes):
    fakes.add("srun", "134 0")
    fakes.add("scontrol")
    assert fakes.run("slurm.sbatch", "audit", SLURM_JOB_END_TIME=str(int(time.time()) + 100), **JOB)[0] == 75
    assert (len(fakes.calls("srun")), len(fakes.calls("scontrol"))) == (1, 1)


def test_slurm_refuses_what_would_go_wrong(fakes):
    fakes.add("srun")
    for words, environment in [(["audit"], JOB | {"SLURM_GPUS_PER_TASK": "1"}), (["audit"], {}), ([], JOB), (["--workdir=out"], JOB)]:
        code, _, said = fakes.run("slurm.sbatch", *words, **environment)
        assert (code, "expected" in said) == (2, True)
    (fakes.directory / "relink").unlink()
    assert fakes.run("slurm.sbatch", "audit", **JOB)[0] == 2
    assert fakes.calls() == []


def test_the_batch_file_asks_for_what_stopping_needs():
    lines = [line.removeprefix("#SBATCH ") for line in (CLUSTER / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    told = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert (told["signal"], told["open-mode"], "requeue" in told) == ("TERM@120", "append", True)
    assert told["ntasks-per-node"] == told["gpus-per-node"]
    assert not {"gpus-per-task", "partition", "account"} & set(told)


def test_slurm_is_found_where_sbatch_copies_it(fakes):
    fakes.add("srun")
    copied = fakes.directory / "slurm_script"
    copied.write_text((CLUSTER / "slurm.sbatch").read_text())
    assert fakes.run(str(copied), "audit", **JOB)[0] == 0
    assert fakes.run(str(copied), "audit", **(JOB | {"SLURM_SUBMIT_DIR": "/"}), RELINK_HOME=str(ROOT))[0] == 0
    code, _, said = fakes.run(str(copied), "audit", **(JOB | {"SLURM_SUBMIT_DIR": "/"}))
    assert (code, "RELINK_HOME" in said, len(fakes.calls("srun"))) == (2, True, 2)


@pytest.mark.parametrize(("version", "cluster"), [("mpirun (Open MPI) 4.1.6", "ompi"), ("mpirun (Open MPI) 5.0.7", "mpi4py")])
def test_mpirun_asks_open_mpi_or_mpi4py(fakes, version, cluster):
    fakes.add("mpirun", "134 0 0 0", answer=f'if [ "$1" = --version ]; then echo "{version}"; exit 0; fi')
    words = ("--processes=16", "--per_node=8", "--hostfile=hosts", "--mpi=--mca btl tcp", "audit", "--workdir=/shared/out")
    assert fakes.run("mpirun.sh", *words)[0] == 0
    calls = fakes.calls("mpirun -np")
    assert len(calls) == 2, "a fault is tried again"
    assert "-np 16 --bind-to none -x PATH -x HF_HUB_OFFLINE --hostfile hosts --map-by ppr:8:node --mca btl tcp env -uhttp_proxy " in calls[0]
    assert calls[0].endswith(f"relink audit --workdir=/shared/out --cluster={cluster} --expect_processes=16")


def test_mpirun_of_others_is_refused(fakes):
    fakes.add("mpirun", answer='echo "Intel(R) MPI Library"')
    assert fakes.run("mpirun.sh", "--processes=2", "audit")[0] == 2
    assert fakes.run("mpirun.sh", "audit")[0] == 2


def test_one_host_uses_all_its_gpus(fakes):
    fakes.add("nvidia-smi", answer="echo 'GPU 0: x'; echo 'GPU 1: x'")
    assert fakes.run("multi_gpu.sh", "audit", "--workdir=out")[0] == 0
    assert fakes.run("multi_gpu.sh", "audit", CUDA_VISIBLE_DEVICES="0,2,3")[0] == 0
    assert fakes.run("multi_gpu.sh", "--gpus=8", "relink", "audit")[0] == 0
    expected = ["relink audit --workdir=out --expect_devices=2", "relink audit --expect_devices=3", "relink audit --expect_devices=8"]
    assert fakes.calls("relink") == expected
    fakes.add("nvidia-smi", "9")
    assert fakes.run("multi_gpu.sh", "audit")[0] == 2


def test_scripts_name_no_site_and_only_flags_that_relink_has():
    known = {*launch_words.LAUNCH, "workdir"}
    added, shown = set(), set()
    for path in [*CLUSTER.glob("*.sh"), CLUSTER / "slurm.sbatch"]:
        text = path.read_text()
        added |= set(re.findall(r"\badd (\w+) ", text))
        for line in re.findall(r"(?:slurm\.sbatch|relink|[0-9] ) ?(?:audit|heads|embed) (--.*)", text):
            shown |= set(re.findall(r"--(\w+)=", line))
    assert added == {"cluster", "expect_devices", "expect_processes"}
    assert shown >= {"workdir"}
    assert added | shown <= known
