"""No tracked file holds what looks like an archive's own content: identifiers of MIMIC-CXR outside the invented range, or its reports."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACES = ("relink_jax", "configs", "launch", "tests", "docs", "README.md", "BUILD.md", "BENCHMARKS.md", "CHANGELOG.md", "SECURITY.md", "RELIABILITY.md")
TEXT = (".py", ".md", ".sh", ".json", ".txt", ".toml", ".j2", ".css", ".csv")
INVENTED = re.compile(r"[ps]?[15]000\d{4}")  # 1000xxxx and 5000xxxx: see tests/cohort/mimic_tree.py and layouts
LOOKS_LIKE = re.compile(r"(?<![0-9A-Za-z])(?:p1\d{7}|s5\d{7})(?![0-9A-Za-z])")
PUBLISHED = {"sections_fixed.py", "mimic-sections.json"}  # the hand-fixed studies that the authors of MIMIC-CXR publish by number
OWN = {"test_no_archive_content.py", "mimic_cxr.py", "sections.py"}  # name the heading that reports carry


def tracked():
    for place in PLACES:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix in TEXT and "__pycache__" not in file.parts and file.stat().st_size < 2**22:
                yield file, file.read_text(encoding="utf-8", errors="ignore")


def breaches(files):
    """Returns the names of files with an identifier or a report that may be real."""
    found = []
    for file, text in files:
        ids = [one for one in LOOKS_LIKE.findall(text) if not INVENTED.fullmatch(one)]
        report = re.search(r"^\s*FINAL REPORT\s*$", text, re.MULTILINE)
        if (ids and file.name not in PUBLISHED) or (report and file.name not in OWN | PUBLISHED):
            found.append(file.name)
    return found


def test_no_file_holds_any():
    assert breaches(tracked()) == []


def test_a_real_looking_one_is_seen():
    real = "p1" + "4567890"
    assert breaches([(pathlib.Path("x.md"), f"patient {real}")]) == ["x.md"]
    assert breaches([(pathlib.Path("x.txt"), "  FINAL REPORT\n EXAMINATION: chest\n")]) == ["x.txt"]
    assert breaches([(pathlib.Path("x.py"), "p10000012/s50000003.txt")]) == []
