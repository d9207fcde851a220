"""Fetches the public Open-I reports that torchxrayvision carries, for the opt-in test of `test_openi`: never part of this repository.

    python tests/cohort/fetch_openi.py DIRECTORY
    RELINK_OPENI_REPORTS=DIRECTORY/NLMCXR_reports.tgz python -m pytest -m slow tests/cohort/test_openi.py

The reports are Indiana University's, under CC BY-NC-ND 4.0. The wheel is downloaded without its dependencies and not installed.
"""

import pathlib
import subprocess
import sys
import zipfile

MEMBER = "torchxrayvision/data/NLMCXR_reports.tgz"


def fetch(directory: pathlib.Path) -> pathlib.Path:
    """Downloads the wheel into `directory` and takes the archive of reports out of it; returns the archive's path."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(directory), "torchxrayvision"]
    subprocess.run(command, check=True)
    target = directory / pathlib.PurePosixPath(MEMBER).name
    with zipfile.ZipFile(sorted(directory.glob("torchxrayvision-*.whl"))[-1]) as wheel:
        target.write_bytes(wheel.read(MEMBER))
    return target


if __name__ == "__main__":
    print(fetch(pathlib.Path(sys.argv[1])))
