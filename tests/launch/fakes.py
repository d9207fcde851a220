"""Programs that clusters have and a test machine does not: each writes down how it was called and answers as told."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "launch" / "cluster"
_FAKE = """#!/usr/bin/env bash
echo "NAME $*" >>"DIR/calls"
ANSWER
codes="$(cat "DIR/NAME.codes" 2>/dev/null || true)"
code="${codes%% *}"
case "$codes" in *" "*) echo "${codes#* }" >"DIR/NAME.codes" ;; esac
exit "${code:-0}"
"""


class Fakes:
    """A directory of fake programs on the PATH of the scripts that are run."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def add(self, name: str, codes: str = "0", answer: str = "") -> None:
        """Puts a program on the path that exits with the given codes, one a call and the last for ever, after running `answer` as bash."""
        path = self.directory / name
        path.write_text(_FAKE.replace("ANSWER", answer).replace("DIR", str(self.directory)).replace("NAME", name))
        path.chmod(0o755)
        (self.directory / f"{name}.codes").write_text(codes + "\n")

    def calls(self, name: str = "") -> list[str]:
        """Returns how the programs, or one of them, were called so far."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(name)]

    def environment(self, **more: str) -> dict[str, str]:
        """Returns the environment of a script: the fakes first on its path."""
        return {"PATH": f"{self.directory}:/usr/bin:/bin", "HOME": str(self.directory), "RELINK_VENV": str(self.directory / "none"), **more}

    def start(self, script: str, *words: str, **more: str) -> "subprocess.Popen[str]":
        """Starts a script of launch/cluster."""
        command = ["bash", str(CLUSTER / script), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment(**more), stdout=pipe, stderr=pipe, text=True, cwd=self.directory)

    def run(self, script: str, *words: str, **more: str) -> tuple[int, str, str]:
        """Runs a script of launch/cluster and returns its exit code, output and errors."""
        process = self.start(script, *words, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def alive(pid: int) -> bool:
    """Returns whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
