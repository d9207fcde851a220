"""The scripts of a TPU slice with a fake gcloud: what is asked for, what hosts do, and how their exit codes become one."""

import time

import pytest
from fakes import CLUSTER, Fakes, alive

TPU = ("--name=slice", "--zone=z", "--accelerator_type=v5litepod-16", "--runtime_version=v2", "--poll=0")
# queued-resources describe answers the next word of `states`; tpu-vm describe says two hosts; a run says the exit codes of one line of `said`
GCLOUD = r"""
next() { head -n 1 "$HOME/$1"; if [ "$(wc -l <"$HOME/$1")" -gt 1 ]; then sed -i 1d "$HOME/$1"; fi; }
case "$*" in
*"queued-resources describe"*) state="$(next states)"; if [ "$state" = MISSING ]; then exit 1; fi; echo "$state"; exit 0 ;;
*"tpu-vm describe"*) echo 2; exit 0 ;;
*"tpu_host.sh run"*) for code in $(next said); do echo "relink exit code: $code"; done; exit 255 ;;
esac
"""


@pytest.fixture
def fakes(tmp_path):
    found = Fakes(tmp_path)
    found.add("sleep", answer=": ${1:-}")
    found.add("gcloud", answer=GCLOUD)
    found.add("tar")
    found.add("relink")
    return found


def tpu(fakes, said, *flags, states="ACTIVE"):
    (fakes.directory / "said").write_text("\n".join(said) + "\n")
    (fakes.directory / "states").write_text("\n".join(states.split()) + "\n")
    return fakes.run("tpu_vm.sh", *TPU, *flags, "audit", "--workdir=/mnt/relink/o ut")[0]


def ran(fakes):
    return len([call for call in fakes.calls("gcloud") if "tpu_host.sh run" in call])


def test_a_slice_is_asked_for_awaited_installed_and_used(fakes):
    assert tpu(fakes, ["0 0"], "--spot", "--nfs=h:/s", "--create=--reserved", "--delete", states="MISSING WAITING_FOR_RESOURCES PROVISIONING ACTIVE") == 0
    calls = [call for call in fakes.calls("gcloud compute tpus") if " describe " not in call]
    create, copy, install, run, delete = calls
    assert create.endswith("queued-resources create slice --zone=z --node-id=slice --accelerator-type=v5litepod-16 --runtime-version=v2 --spot --reserved")
    assert " scp " in copy
    assert copy.endswith("slice:relink.tgz --zone=z --worker=all --quiet")
    assert install.endswith("tpu_host.sh install h:/s /mnt/relink")
    assert "--worker=all" in run
    assert run.endswith(r"run audit --workdir=/mnt/relink/o\ ut --cluster=tpu --expect_processes=2")
    assert delete.endswith("queued-resources delete slice --zone=z --force --quiet")


@pytest.mark.parametrize(
    ("said", "ended", "tries"),
    [
        (["0 0"], 0, 1),
        (["0 2"], 2, 1),
        (["74 65"], 65, 1),
        (["75 75", "0 0"], 0, 2),
        (["75 134", "0 0"], 0, 2),
        (["134 75"], 134, 3),
        (["0 70"], 70, 3),
        (["0", "0 0"], 0, 2),  # a host that said nothing
        ([""], 1, 3),
    ],
)
def test_exit_codes_of_hosts_become_one(fakes, said, ended, tries):
    assert tpu(fakes, said, "--retries=2") == ended
    assert ran(fakes) == tries
    assert not [call for call in fakes.calls("gcloud") if "delete" in call], "only on request"


def test_a_slice_that_was_taken_away_is_asked_for_again_and_counts_as_no_fault(fakes):
    states = "ACTIVE SUSPENDING SUSPENDED ACTIVE SUSPENDING SUSPENDED ACTIVE"
    assert tpu(fakes, ["", "75", "0 0"], "--retries=0", states=states) == 0
    order = [word for call in fakes.calls("gcloud") for word in ("create", "delete", "tpu_host.sh run") if word in call]
    assert order == ["tpu_host.sh run", "delete", "create", "tpu_host.sh run", "delete", "create", "tpu_host.sh run"]


def test_a_failing_installation_runs_nothing(fakes):
    fakes.add("gcloud", answer='case "$*" in *install*) exit 9 ;; esac' + GCLOUD)
    assert tpu(fakes, ["0 0"], "--retries=1", "--delete") == 9
    assert ran(fakes) == 0
    assert "delete" in fakes.calls("gcloud")[-1], "a slice that is not kept must not go on to cost"


def test_a_dry_run_prints_the_commands_and_runs_none(fakes):
    code, out, _ = fakes.run("tpu_vm.sh", *TPU, "--delete", "--dry_run", "audit", "--workdir=/mnt/relink/out")
    assert code == 0
    assert [line.split()[3:5] for line in out.splitlines()] == [
        ["queued-resources", "create"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
        ["tpu-vm", "ssh"],
        ["queued-resources", "delete"],
    ]
    assert fakes.calls("gcloud") == []


@pytest.mark.parametrize("words", [TPU[1:], (*TPU, "--nonsense", "audit"), TPU])
def test_wrong_words_are_refused(fakes, words):
    code, _, said = fakes.run("tpu_vm.sh", *words)
    assert (code, "expected" in said, fakes.calls()) == (2, True, [])


def test_a_signal_stops_the_hosts(fakes):
    waits = 'case "$*" in *"tpu_host.sh run"*) while [ ! -f "$HOME/told" ]; do /bin/sleep 0.05; done ;; *"tpu_host.sh stop"*) touch "$HOME/told" ;; esac'
    fakes.add("gcloud", answer=waits + GCLOUD)
    for name, text in (("said", "75 75"), ("states", "ACTIVE")):
        (fakes.directory / name).write_text(f"{text}\n")
    process = fakes.start("tpu_vm.sh", *TPU, "audit")
    until = time.monotonic() + 20
    while not ran(fakes) and time.monotonic() < until:
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=30)
    assert (process.returncode, ran(fakes)) == (75, 1)


def test_a_host_says_its_exit_code_and_ends_what_was_left(fakes):
    fakes.add("relink", "65")
    left = fakes.start("until_done.sh", "bash", "-c", "exec /bin/sleep 100")
    checkout = fakes.directory / "launch" / "cluster"
    checkout.mkdir(parents=True)
    for name in ("tpu_host.sh", "words.sh"):
        (checkout / name).write_text((CLUSTER / name).read_text())
    (fakes.directory / "running.pid").write_text(str(left.pid))
    code, out, _ = fakes.run(str(checkout / "tpu_host.sh"), "run", "audit", "--workdir=a b")
    left.communicate(timeout=20)
    assert (code, out) == (0, "relink exit code: 65\n")
    assert not alive(left.pid)
    assert fakes.calls("relink") == ["relink audit --workdir=a b"]
    assert not (fakes.directory / "running.pid").exists()
