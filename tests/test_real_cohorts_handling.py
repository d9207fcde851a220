"""Nothing of an archive leaves the restricted directories: canary words in ids, paths, texts and cells, and every byte that a run wrote or printed."""

import contextlib
import io
import pathlib

import pytest
from own_archive import archive, write

from relink_jax import cli
from relink_jax.store import restricted

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")
CANARIES = ("canarypatient", "canarystudy", "canaryimage", "canaryreport", "canaryword", "canarysection", "canaryfolder")
FAST = [
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.bootstrap_replicates=100", "--config.audit.pool_sizes=3", "--config.audit.ks=1", "--config.embed.batch_size=8"),
    *("--config.models=phantom-0-untrained", "--config.mitigate=", "--config.probe.bootstrap_replicates=100"),
]


def planted(root: pathlib.Path) -> list[str]:
    """Returns the flags of an archive whose every identifying cell holds a canary."""
    rows = archive(root)
    for row in rows:
        row["patient_id"] = f"canarypatient{row['patient_id']}"
        row["study_id"] = f"canarystudy{row['study_id']}"
        row["image_id"] = f"canaryimage{row['image_id']}"
        row["report_id"] = f"canaryreport{row['report_id']}"
        row["findings"] = f"canaryword {row['findings']} canaryword"
        row["impression"] = "canarysection"
        row["image_path"] = f"canaryfolder/{row['image_path']}"
    (root / "png").rename(root / "loose")
    (root / "png").mkdir()
    (root / "loose").rename(root / "png" / "canaryfolder")
    return write(root, rows)


def spoken(*commands: list[str]) -> tuple[str, list[int]]:
    """Returns everything that commands printed, and their exit codes."""
    told, codes = io.StringIO(), []
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        for words in commands:
            codes.append(cli.main(words))
    return told.getvalue(), codes


def found_in(text: bytes) -> list[str]:
    return [word for word in CANARIES if word.encode() in text.lower()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Returns (directory, flags, what the whole road printed)."""
    root = tmp_path_factory.mktemp("canaries")
    flags = planted(root)
    out = [f"--json={root / 'counts.json'}", f"--csv={root / 'counts.csv'}"]
    told, codes = spoken(
        ["cohort", "check", *flags[:-1]],
        ["cohort", "report", *flags[:-1], *out],
        ["cohort", *flags, *FAST],
        ["convert", flags[-1]],
        ["cohort", "build", flags[-1], "--workers=1", "--shard_rows=5"],
        *([stage, flags[-1]] for stage in ("embed", "audit", "report")),
    )
    assert codes == [0] * len(codes), told
    return root, flags, told


def test_no_command_prints_any(ran):
    assert found_in(ran[2].encode()) == []


def test_no_file_outside_the_restricted_ones_holds_any(ran):
    root = ran[0]
    held = {entry["file"] for entry in restricted.manifest(root / "w")["files"]}
    others = [path for path in (root / "w").rglob("*") if path.is_file() and path.relative_to(root / "w").as_posix() not in held]
    assert len(others) > 3
    for path in [*others, root / "counts.json", root / "counts.csv"]:
        assert found_in(path.read_bytes()) == [], path.name
    assert found_in("\n".join(path.relative_to(root).as_posix() for path in (root / "w").rglob("*")).encode()) == []


def test_the_canaries_are_where_they_may_be(ran):
    texts = [(ran[0] / "w" / entry["file"]).read_bytes() for entry in restricted.manifest(ran[0] / "w")["files"]]
    assert any(b"canaryword" in text for text in texts)


def test_restricted_files_are_private(ran):
    for path in (ran[0] / "w").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path.name


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
    import csv

    with (tmp_path / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    BREAKAGES[what](rows)
    flags = write(tmp_path, rows)
    told, codes = spoken(["cohort", "check", *flags[:-1]], ["cohort", *flags])
    assert codes == [65, 65], told
    assert found_in(told.encode()) == []
    assert "error" in told
