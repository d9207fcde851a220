"""CheXpert Plus: the published table, its image tree and its CheXbert labels as rows of pairs.

The table `df_chexpert_plus_240401` has one row per image and no study column: a study is the pair (patient folder, study
folder) of `path_to_image`, since study numbers start anew with each patient and one accession number covers many studies.
`study_order` stays blank: `patient_report_date_order` ranks reports within a patient but does not follow their dates.

Design note: a report was anonymised once per image, so that the rows of one study differ in invented dates and the like, and
so do labels read from them (Stanford-AIMI/chexpert-plus, issue 13). The first row of a study speaks for all of its rows;
`studies_with_differing_texts` and `studies_with_differing_labels` count where that mattered. The archive has no test part.
References: Chambon et al. (2024), arXiv 2405.19538; github.com/Stanford-AIMI/chexpert-plus.
"""

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from relink_jax import errors
from relink_jax.cohort import chexbert, published
from relink_jax.cohort.columns import is_file
from relink_jax.cohort.pairs import Pairs

NAME = "CheXpert-Plus"
LABEL_SOURCES = ("report", "findings", "impression")

_COLUMNS = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "report", "section_findings", "section_impression"),
    *("section_accession_number", "age", "sex", "split"),
)
_PATH = re.compile(r"((?:train|valid)/(patient[0-9]+)/(study[0-9]+)/[A-Za-z0-9_.-]+)\.(?:jpe?g|png)", re.IGNORECASE)
_SPLITS = {"train": "train", "valid": "validate"}
_VIEWS = {("Frontal", "PA"): "PA", ("Frontal", "AP"): "AP", ("Frontal", ""): "FRONTAL", ("Frontal", "LL"): "FRONTAL", ("Frontal", "RL"): "FRONTAL"}
_NOTICE = re.compile(r"[^\n]{0,300}?(?i:anonymi[sz]|de-?identif)[^\n]{0,300}?(?:\n|(?=\b[A-Z][A-Z ]{3,40}:))")
_ACCESSION = re.compile(r"\baccession(?:[ \t]+(?:number|no\.?))?[ \t]*[:#][ \t]*(?:[^\n]{0,40}(?:\n|\Z)|[^\s]*)", re.IGNORECASE)
_SHORTEST_ACCESSION = 4  # characters from which a cell of section_accession_number is looked for in the text


@dataclasses.dataclass(frozen=True)
class _Form:
    """How the images of a root are named: folders before the table's path, and the ending in place of its own ('' for path_to_dcm)."""

    name: str
    folder: str
    ending: str

    def path(self, stem: str, member: str) -> str:
        """Returns the path of an image in this form, of its path in the table without ending, and of its DICOM member."""
        return self.folder + (stem + self.ending if self.ending else member)


_FORMS = (
    *(_Form("png", folder, ".png") for folder in ("", "PNG/", "PNG/PNG/")),
    *(_Form("jpg", folder, ".jpg") for folder in ("", "CheXpert-v1.0/", "CheXpert-v1.0-small/")),
    *(_Form("dicom", folder, "") for folder in ("", "DICOM/", "DICOM/DICOM/")),
)


def read(table: pathlib.Path, images: pathlib.Path, *, labels: pathlib.Path | None = None, label_source: str = "report") -> Pairs:
    """Returns the rows of CheXpert Plus, in the order of its table.

    The table says `.jpg`; on disk are the `.png` of the archive, the `.jpg` of CheXpert v1.0 or the members of `path_to_dcm`,
    at the top of `images` or in the folder that the archive ships them in. The first image found decides for all; a root
    without any is read as the PNG form, and is told by whoever opens the images. An image that `ap_pa` calls LL or RL is
    FRONTAL, as `frontal_lateral` and its own file name say.
    Args:
      table: df_chexpert_plus_240401.csv (or .csv.gz, .parquet), columns by name.
      images: directory of the images.
      labels: directory of {report,findings,impression}_fixed.json, or its parent; None leaves every study unlabelled.
      label_source: text that CheXbert read, 'report', 'findings' or 'impression'; also what `labelled_text` holds.
    Raises: UsageError: unknown label_source; DataError: see `published.read_table` and `chexbert.read`, a path that names no
      study, an unknown split or view, by data row.
    """
    if label_source not in LABEL_SOURCES:
        raise errors.UsageError(
            errors.describe("label_source", "CheXpert Plus", f"one of {', '.join(LABEL_SOURCES)}", repr(label_source))
            + errors.suggest(label_source, LABEL_SOURCES)
        )
    table, images = pathlib.Path(table), pathlib.Path(images)
    rows, where = published.read_table(table, _COLUMNS), f"table {table.name!r}"
    stems, studies = _paths(rows["path_to_image"], where)
    first = _first_rows(studies)
    counts = Counter(rows_read=len(studies), archive_studies=len(set(first)))
    form = _form(images, stems, rows["path_to_dcm"])
    counts[f"images_as_{form.name}"] = len(stems)
    texts = {name: _of_first(rows[column], first) for name, column in (("findings", "section_findings"), ("impression", "section_impression"))}
    texts["report"] = _of_first(_stripped(rows["report"], rows["section_accession_number"], first, counts), first)
    counts["studies_with_differing_texts"] = _differing(first, rows["report"], rows["section_findings"], rows["section_impression"])
    columns = {
        "image_path": [form.path(stem, member) for stem, member in zip(stems, rows["path_to_dcm"], strict=True)],
        "image_id": stems,
        "patient_id": rows["deid_patient_id"],
        "study_id": studies,
        "report_id": studies,
        "findings": texts["findings"],
        "impression": texts["impression"],
        "report_text": texts["report"],
        "labelled_text": texts[label_source],
        "view": _views(rows["frontal_lateral"], rows["ap_pa"], where, counts),
        "split": _splits(rows["split"], where),
        "origin": [f"chexpert-plus/{split}" for split in rows["split"]],
        "site": [NAME] * len(stems),
        "age_years": rows["age"],
        "sex": rows["sex"],
    }
    if labels is not None:
        columns |= chexbert.read(labels, label_source, rows["path_to_image"], first, counts)
    return published.pairs(NAME, columns, images, dict(counts))


def _paths(paths: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """Returns each image's path without its ending, and its study as 'patient folder/study folder'."""
    stems, studies, shared = [], [], dict[str, str]()
    for row, path in enumerate(paths):
        match = _PATH.fullmatch(path)
        if match is None:
            expected = "train or valid, patient, study and picture, as in train/patient1/study1/view1_frontal.jpg"
            raise errors.DataError(errors.describe("path", f"{where}, data row {row + 1}, column 'path_to_image'", expected, "another path"))
        study = f"{match[2]}/{match[3]}"
        stems.append(match[1])
        studies.append(shared.setdefault(study, study))
    return stems, studies


def _first_rows(studies: Sequence[str]) -> list[int]:
    """Returns for each row the first row of its study."""
    first: dict[str, int] = {}
    return [first.setdefault(study, row) for row, study in enumerate(studies)]


def _of_first(cells: Sequence[str], first: Sequence[int]) -> list[str]:
    return [cells[row] for row in first]


def _differing(first: Sequence[int], *columns: Sequence[str]) -> int:
    """Returns how many studies have a row with another cell than their first row's, in any of `columns`."""
    return len({start for row, start in enumerate(first) if start != row and any(cells[row] != cells[start] for cells in columns)})


def _form(root: pathlib.Path, stems: Sequence[str], members: Sequence[str]) -> _Form:
    """Returns the form that the first image found under `root` has, of those whose top folder is there at all."""
    tops = {path.split("/")[0] for path in ("train", "valid", *members[:1])}
    candidates = [form for form in _FORMS if any(_is_dir(root / form.folder / top) for top in tops)]
    for stem, member in zip(stems, members, strict=True):
        for form in candidates:
            if (form.ending or member) and is_file(root / form.path(stem, member)):
                return form
    return next((form for form in candidates if form.name == "png"), _FORMS[0])


def _is_dir(path: pathlib.Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, a closed directory
        return False


def _stripped(reports: Sequence[str], accessions: Sequence[str], first: Sequence[int], counts: Counter[str]) -> list[str]:
    """Returns the report of each study's first row without the notice of anonymisation it may open with, and without its accession number."""
    cleaned = list(reports)
    counts.update(notices_removed=0, accession_numbers_removed=0)
    for row in sorted(set(first)):
        text = reports[row]
        match = _NOTICE.match(text)
        if match:
            counts["notices_removed"] += 1
            text = text[match.end() :].lstrip()
        bare = _ACCESSION.sub("", text)
        accession = accessions[row]
        if len(accession) >= _SHORTEST_ACCESSION and any(letter.isdigit() for letter in accession):
            bare = bare.replace(accession, "")
        counts["accession_numbers_removed"] += bare != text
        cleaned[row] = bare.strip()
    return cleaned


def _views(sides: Sequence[str], positions: Sequence[str], where: str, counts: Counter[str]) -> list[str]:
    views = []
    counts["frontal_called_lateral"] = sum(side == "Frontal" and position in ("LL", "RL") for side, position in zip(sides, positions, strict=True))
    for row, (side, position) in enumerate(zip(sides, positions, strict=True)):
        view = "LATERAL" if side == "Lateral" else _VIEWS.get((side, position))
        if view is None:
            expected = "Lateral, or Frontal with AP, PA, LL, RL or a blank"
            raise errors.DataError(errors.describe("view", f"{where}, data row {row + 1}, columns 'frontal_lateral' and 'ap_pa'", expected, "another value"))
        views.append(view)
    return views


def _splits(cells: Sequence[str], where: str) -> list[str]:
    for row, cell in enumerate(cells):
        if cell not in _SPLITS:
            raise errors.DataError(errors.describe("split", f"{where}, data row {row + 1}, column 'split'", "train or valid", "another value"))
    return [_SPLITS[cell] for cell in cells]
