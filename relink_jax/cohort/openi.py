"""Open-I (the Indiana University collection): the XML reports with flat PNG images, or the two tables of the Kaggle re-pack.

Every report is one study of one patient: the collection repeats nobody. De-identified spans are `XXXX`; they stay in the text
and the reports that have one are counted. Nobody labelled the findings: MeSH terms are a human's index terms, 'normal' among
them, and say nothing of a finding that is not named, so no label columns are made of them.

References: Demner-Fushman et al. (2016), doi 10.1093/jamia/ocv080; kaggle.com/datasets/raddar/chest-xrays-indiana-university.
"""

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from relink_jax import errors
from relink_jax.cohort import openi_xml, published
from relink_jax.cohort.columns import is_file
from relink_jax.cohort.openi_xml import SECTIONS, Report
from relink_jax.cohort.pairs import Pairs

NAME = "Open-I"
_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_VIEWS = {"Frontal": "FRONTAL", "Lateral": "LATERAL"}
_TOKEN = "XXXX"
_UID = re.compile(r"[0-9]{1,9}")
_KAGGLE_ENDING = ".dcm.png"
_REPEATED = re.compile(r"([0-9]+)_\1_")


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One image of a report: its file name, its name without ending, and its view."""

    file: str
    name: str
    view: str


def read(reports: pathlib.Path, images: pathlib.Path) -> Pairs:
    """Returns the rows of Open-I, reports in the order of their numbers, images in the order in which a report names them.

    XML names no view, so views are blank, unless indiana_projections.csv lies with the reports: then Frontal is FRONTAL and
    Lateral is LATERAL, joined by image name. All is split 'test', as there is no official one. `labelled_text` is the
    impression, or else the findings: the rule by which the labelers of MIMIC-CXR choose. `report_text` is the four sections
    under their names. Reports without image give no row and are counted.
    Args:
      reports: NLMCXR_reports.tgz, the directory of its XML files or that one's parent, or the directory of the Kaggle tables.
      images: the flat directory of <image name>.png, or (Kaggle) of <image name>.dcm.png, or the parent of images_normalized.
    Raises: DataError: neither form is there; see `openi_xml.read_reports` and `published.read_table`; an unknown projection.
    """
    reports, images = pathlib.Path(reports), pathlib.Path(images)
    folder = next((path for path in (reports / "ecgen-radiology", reports) if _has_xml(path)), None)
    projections = next((path for path in (reports / _PROJECTIONS, reports.parent / _PROJECTIONS) if is_file(path)), None)
    counts: Counter[str] = Counter()
    if is_file(reports) or folder is not None:
        found = openi_xml.read_reports(folder or reports)
        pictures = _xml_pictures(found, _projections(projections) if projections else {}, counts)
    elif is_file(reports / _REPORTS) and projections is not None:
        found, pictures = _kaggle(reports / _REPORTS, projections, counts)
        images = images / "images_normalized" if (images / "images_normalized").is_dir() else images
    else:
        expected = f"XML files, or {_REPORTS} with {_PROJECTIONS}"
        raise errors.DataError(errors.describe("reports missing", "Open-I reports", expected, "neither"))
    return _pairs(found, pictures, images, counts)


def _has_xml(directory: pathlib.Path) -> bool:
    try:
        return any(path.suffix == ".xml" for path in directory.iterdir())
    except OSError:
        return False


def _pairs(found: Sequence[Report], pictures: dict[str, list[_Picture]], images: pathlib.Path, counts: Counter[str]) -> Pairs:
    counts["reports_read"] = len(found)
    counts["reports_without_image"] = sum(not pictures.get(report.uid) for report in found)
    counts["reports_with_placeholder"] = sum(any(_TOKEN in section for section in report.sections) for report in found)
    counts["findings_or_impressions_with_placeholder"] = sum(any(_TOKEN in section for section in report.sections[2:]) for report in found)
    columns: dict[str, list[str]] = {name: [] for name in published.COLUMNS}
    for report in found:
        whole = "\n".join(f"{name}: {text}" for name, text in zip(SECTIONS, report.sections, strict=True) if text)
        _, _, findings, impression = report.sections
        for picture in pictures.get(report.uid, ()):
            row = {"image_path": picture.file, "image_id": picture.name, "view": picture.view, "findings": findings, "impression": impression}
            row |= {"report_text": whole, "labelled_text": impression or findings, "split": "test", "origin": "openi", "site": NAME}
            row |= {"patient_id": report.uid, "study_id": report.uid, "report_id": report.uid}
            for name, cells in columns.items():
                cells.append(row.get(name, ""))
    if not columns["image_path"]:
        raise errors.DataError(errors.describe("images", "Open-I reports", "at least one report that names an image", "none"))
    counts["rows_read"] = len(columns["image_path"])
    counts["views_unknown"] = columns["view"].count("")
    return published.pairs(NAME, columns, images, dict(counts))


def _xml_pictures(found: Sequence[Report], views: dict[str, str], counts: Counter[str]) -> dict[str, list[_Picture]]:
    known = {image: _bare(image) for report in found for image in report.images}
    if views:
        counts["projections_unused"] = len(views.keys() - set(known.values()))
    return {report.uid: [_Picture(f"{image}.png", image, views.get(known[image], "")) for image in report.images] for report in found}


def _bare(image: str) -> str:
    """Returns the image's name as the Kaggle tables have it: 'CXR1_1_IM-0001-3001' is '1_IM-0001-3001', 'CXR10_IM-0002-1001' is '10_IM-0002-1001'."""
    return _REPEATED.sub(r"\1_", image.removeprefix("CXR"), count=1)


def _projections(path: pathlib.Path) -> dict[str, str]:
    return {picture.name: picture.view for pictures in _kaggle_pictures(path).values() for picture in pictures}


def _kaggle_pictures(path: pathlib.Path) -> dict[str, list[_Picture]]:
    """Returns the images of each report, by its uid."""
    rows, found = published.read_table(path, ("uid", "filename", "projection")), dict[str, list[_Picture]]()
    for row, (uid, file, projection) in enumerate(zip(rows["uid"], rows["filename"], rows["projection"], strict=True)):
        place = f"table {path.name!r}, data row {row + 1}"
        if projection not in _VIEWS:
            raise errors.DataError(errors.describe("projection", place, "Frontal or Lateral", "another value"))
        if not file.endswith(_KAGGLE_ENDING) or not _UID.fullmatch(uid):
            raise errors.DataError(errors.describe("uid and filename", place, f"a number, and a name that ends in {_KAGGLE_ENDING}", "another value"))
        found.setdefault(f"CXR{uid}", []).append(_Picture(file, file.removesuffix(_KAGGLE_ENDING), _VIEWS[projection]))
    return found


def _kaggle(table: pathlib.Path, projections: pathlib.Path, counts: Counter[str]) -> tuple[list[Report], dict[str, list[_Picture]]]:
    rows = published.read_table(table, ("uid", *(name.lower() for name in SECTIONS)))
    pictures, found = _kaggle_pictures(projections), dict[str, Report]()
    for row, uid in enumerate(rows["uid"]):
        place = f"table {table.name!r}, data row {row + 1}"
        name = f"CXR{uid}"
        if not _UID.fullmatch(uid) or name in found:
            raise errors.DataError(errors.describe("uid", place, "a number, every report once", "another value or one of an earlier row"))
        found[name] = Report(name, tuple(rows[section.lower()][row] for section in SECTIONS), ())
    counts["projections_unused"] = sum(len(listed) for uid, listed in pictures.items() if uid not in found)
    return sorted(found.values(), key=lambda report: int(report.uid[3:])), pictures
