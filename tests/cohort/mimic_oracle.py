"""Writes goldens/mimic-sections.json: what the official MIMIC-CXR scripts make of invented reports. Run by hand, once.

    git clone https://github.com/MIT-LCP/mimic-cxr && python tests/cohort/mimic_oracle.py mimic-cxr/txt

Each report becomes a file of a tree that txt/create_section_files.py reads; the rows of the two tables it writes, and the sections
that section_text of txt/section_parser.py returns (not for hand-fixed studies), are recorded beside the text. Only hand-fixed studies have numbers of the archive, with invented
texts. `--fuzz N` compares N random reports with relink_jax.cohort.sections instead and writes nothing.
"""

import csv
import json
import pathlib
import random
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "goldens" / "mimic-sections.json"
HEAD = "                                 FINAL REPORT\n"
FIRST = 50000001

WRITTEN = (
    HEAD
    + " EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___ year old with cough\n \n FINDINGS: \n \n Clear lungs.\n \n IMPRESSION: \n \n Normal chest.\n",
    HEAD + " FINDINGS:  Clear lungs. No effusion.\n",
    HEAD + " IMPRESSION:  No change.\n",
    HEAD + " Heart size is normal.\n \n Lungs are clear.\n",
    "Lungs are clear and the heart is normal.",
    "",
    " ",
    HEAD + " ___\n \n ___ ___\n",
    HEAD + " IMPRESSION:  First reading.\n \n FINDINGS:  Clear.\n \n IMPRESSION:  Second reading.\n",
    HEAD + " FINDINGS:  First.\n \n FINDINGS: \n \n \n IMPRESSION: \n",
    " ADDENDUM  Corrected side.\n ______________________________________________________________________________\n" + HEAD + " IMPRESSION:  Left effusion.\n",
    " ADDENDUM:  Corrected side.\n ____________________\n" + HEAD + " FINDINGS:  Left effusion.\n",
    " WET READ: ___ ___ ___ 4:00 PM\n  No pneumothorax. \n WET READ VERSION #1 \n ____________________\n" + HEAD + " FINDINGS:  Line in place.\n",
    HEAD + " COMPARISON:  ___.\n",
    HEAD + " COMPARISON:  Chest of ___.\n \n The lungs are clear.\n \n The heart is large.\n",
    HEAD + " HISTORY:  Cough.\n \n Clear lungs.\n \n No effusion.\n",
    HEAD + " PA AND LATERAL CHEST:\n \n INDICATION:  Fever.\n \n IMPRESSION:  Normal.\n",
    HEAD + " TWO VIEWS OF THE CHEST:  Clear lungs.\n",
    HEAD + " PORTABLE UPRIGHT:  Line in place.\n",
    HEAD + " CHEST, TWO VIEWS: ___\n \n COMPARISON:  None.\n",
    HEAD + " FINDINGS AND IMPRESSION:  Clear lungs.\n",
    HEAD + " NDICATION:  Clear lungs.\n",
    HEAD + " PFI:  Clear lungs.\n \n Normal.\n",
    HEAD + " PRELIMINARY IMPRESSION:  Clear lungs.\n",
    HEAD + " COMPARISON FINDINGS HISTORY:  Clear lungs.\n",
    HEAD + " FINDINGS:\n IMPRESSION:  Normal.\n",
    HEAD + " FINDINGS:\n\n IMPRESSION:  Normal.\n",
    HEAD + " FINDINGS: \n IMPRESSION:  Normal.\n",
    HEAD + " COMPARISON:\n HISTORY:  Cough.\n FINDINGS:  Clear.\n",
    HEAD + "IMPRESSION:  No leading space.\n",
    HEAD + "  IMPRESSION:  Two leading spaces.\n",
    HEAD + " Impression:  Mixed case.\n",
    HEAD + " IMPRESSION 2:  With a digit.\n",
    HEAD + " IMPRESSION:No space after it.\n",
    HEAD + " The reading was IMPRESSION:  in mid-line.\n",
    " IMPRESSION:  On the first line.\n FINDINGS:  On the second.\n",
    "\n IMPRESSION:  After an empty first line.",
    HEAD + " RECOMMENDATION(S):  CT.\n \n NOTIFICATION:  Told.\n",
    HEAD + " FINDINGS:  Text.\n \n  IMPRESSION :  With a space.\n \n IMPRESSION :  So.\n",
    HEAD + " (FINDINGS/IMPRESSION):  In brackets.\n",
    HEAD + " SEMI-UPRIGHT, AP VIEW:  Text\u00a0with odd space.\x1c\n",
    HEAD + " IMPRESSION:\t Tabbed.\n",
    HEAD + " :  Nothing before the colon.\n \n After.\n",
    HEAD + " -:  A dash.\n \n After.\n \n End.\n",
)


def random_report(rng: random.Random) -> str:
    """Returns a report of random headers, line ends and blank lines, near and beyond the edges of the rule."""
    headers = (
        *("FINDINGS", "IMPRESSION", "COMPARISON", "INDICATION", "HISTORY", "TECHNIQUE", "CONCLUSION", "PFI", "NDICATION", "IMPRESSON", "FINDING", "WET READ"),
        *("RECOMMENDATION(S)", "CHEST, PA AND LATERAL", "PORTABLE", "BONE WINDOWS", "FINDINGS/ IMPRESSION", "HISTORY OF FINDINGS", "ADDENDUM BY DR", "NOTE"),
        *("EXAM", "REFERENCE EXAM", "FRONTAL AND LATERAL", "Findings", "IMPRESSION 1", " FINDINGS", "FINDINGS ", "RIBS", "DATE", "COMPARISIONS", "-", "()"),
    )
    parts = [rng.choice((HEAD, "", "\n", " ", " WET READ\n ____\n" + HEAD))]
    for _ in range(rng.randrange(7)):
        if rng.random() < 0.7:
            parts.append(
                rng.choice((" ", " ", " ", " ", "", "  ")) + rng.choice(headers) + rng.choice((":", ":", ":", "")) + rng.choice(("  ", " \n", "\n", ""))
            )
        for _ in range(rng.randrange(3)):
            parts.append(rng.choice(("Clear lungs.", " ___", " Mild edema, see above: yes.", "", " ")) + rng.choice(("\n", "\n", "\n \n", "\n\n", "")))
    return "".join(parts)


def named(text: str, index: int) -> tuple[str, str]:
    """Returns a study name for a report, with the report."""
    return f"s{FIRST + index}", text


def official(folder: pathlib.Path, reports: list[tuple[str, str]]) -> list[dict]:
    """Returns what the scripts in `folder` make of (study name, report text) pairs."""
    sys.path.insert(0, str(folder))
    import create_section_files
    import section_parser

    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "files/p10/p10000001").mkdir(parents=True)
        for study, text in reports:
            (root / f"files/p10/p10000001/{study}.txt").write_text(text, encoding="utf-8", newline="")
        create_section_files.main(["--reports_path", str(root / "files"), "--output_path", str(root / "out"), "--no_split"])
        labelled = dict(_table(root / "out/mimic_cxr_sections.csv"))
        sectioned = {row[0]: row[1:] for row in _table(root / "out/mimic_cxr_sectioned.csv")[1:]}
    found = []
    for study, text in reports:
        bodies, names, _ = section_parser.section_text(text)
        parts = list(zip(names, bodies, strict=True)) if study in sectioned else None
        found.append({"study": study, "text": text, "parts": parts, "labelled": labelled[study], "sectioned": sectioned.get(study)})
    return found


def _table(path: pathlib.Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def _reports(folder: pathlib.Path) -> list[tuple[str, str]]:
    sys.path.insert(0, str(folder))
    import section_parser

    rng = random.Random(5)
    texts = [*WRITTEN, *(random_report(rng) for _ in range(40))]
    under, spans = section_parser.custom_mimic_cxr_rules()
    page = HEAD + "".join(f" Sentence {number} of a report that says nothing.\n" for number in range(30))
    fixed = [(study, f"{HEAD} {name.upper()}:  Said here.\n \n IMPRESSION:  Not here.\n \n {name.upper()}:  Or here.\n") for study, name in under.items()]
    return [named(text, index) for index, text in enumerate(texts)] + fixed + [(study, page[: end + 40]) for study, (_, end) in spans.items()]


def _differences(found: list[dict]) -> int:
    from relink_jax.cohort import sections

    wrong = 0
    for record in found:
        ours = sections.conclusions(record["text"], record["study"][1:])
        same = record["parts"] is None or [tuple(part) for part in record["parts"]] == sections.parse(record["text"])
        columns = [getattr(ours, name) for name in sections.CONCLUSIONS]
        wrong += not (same and ours.labelled_text == record["labelled"].strip() and columns == (record["sectioned"] or [""] * 4))
    return wrong


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    if "--fuzz" in sys.argv:
        rng = random.Random(int(sys.argv[-1]))
        texts = [random_report(rng) for _ in range(int(sys.argv[-1]))]
        print(f"{_differences(official(place, [named(text, index) for index, text in enumerate(texts)]))} of {len(texts)} differ")
    else:
        lines = ",\n".join(json.dumps(record) for record in official(place, _reports(place)))
        GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(f"{len(lines.splitlines())} reports")
