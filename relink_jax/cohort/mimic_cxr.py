"""MIMIC-CXR: the images and tables of MIMIC-CXR-JPG 2.1.0 with the reports of MIMIC-CXR 2.1.0, as rows of image-report pairs.

The two are published apart, so there are two roots. Reports may stay in their zip. Sections follow the official rule
(`sections`); views, splits and labels follow the published tables (`mimic_cxr_tables`). Every image is a row, of whatever view and
with or without a report: leaving out is the recipe's business.

References: Johnson et al. (2019), Scientific Data 6:317 and arXiv 1901.07042; physionet.org/content/mimic-cxr and mimic-cxr-jpg.
"""

import collections
import contextlib
import dataclasses
import datetime
import os
import pathlib
import re
from collections.abc import Iterator

from relink_jax import errors
from relink_jax.cohort import archives, mimic_cxr_tables, sections
from relink_jax.cohort.mimic_cxr_tables import ARCHIVE, LABEL_TABLES, Images
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.schema import LABELS

REPORTS_ZIP = "mimic-cxr-reports.zip"

_PREFIX = re.compile(r"(?:.*/)?(?=p1[0-9]/p1[0-9]{7}/s5[0-9]{7}\.txt$)")
_FORMS = (".jpg", ".dcm", ".dcm.gz")
_COUNTED = (
    *(
        "archive_images",
        "archive_studies",
        "archive_patients",
        "images_as_dicom",
        "view_from_code",
        "view_unknown",
        "view_turned",
        "view_unlisted",
        "studies_without_time",
    ),
    *("studies_with_time_of_another", "studies_not_in_label_table", "studies_labelled_blank", "labelled_studies_without_images"),
    *("reports_missing", "reports_hand_fixed", "reports_without_conclusion", "reports_without_findings_or_impression"),
)


@dataclasses.dataclass(frozen=True)
class _Report:
    findings: str = ""
    impression: str = ""
    report_text: str = ""
    labelled_text: str = ""


def read(images: pathlib.Path, reports: pathlib.Path, *, labels: str = "chexpert") -> Pairs:
    """Returns one row per image of the metadata table, in its order.

    Args:
        images: root of MIMIC-CXR-JPG, with the tables (gzipped or plain) at its top and files/ below; files/ may hold the DICOM
            tree (.dcm, .dcm.gz) instead, which is told by the first image that is there in any form.
        reports: mimic-cxr-reports.zip or the directory that it lies in; where there is none, a directory that holds
            files/p1x/p1xxxxxxx/s5xxxxxxx.txt, or that files/ itself.
        labels: 'chexpert', 'negbio', or 'radiologist' (687 studies of the official test split; all others are unlabelled).

    A study whose report file is missing has empty texts. A study that the label table does not name, or names with 14 blanks, has
    no label_source. study_order counts a patient's distinct moments from 0, so that studies of one moment share it; it is
    blank where date or time is. findings and impression are the last ones of the report and blank for the 54 hand-fixed studies.

    Raises: UsageError: unknown `labels`. DataError: see `mimic_cxr_tables` and `archives`; or no report at all is found.
    """
    if labels not in LABEL_TABLES:
        raise errors.UsageError(errors.describe("labels", ARCHIVE, ", ".join(LABEL_TABLES), repr(labels)) + errors.suggest(labels, LABEL_TABLES))
    counts = dict.fromkeys(_COUNTED, 0)
    found = mimic_cxr_tables.read_images(images)
    first: dict[str, int] = {}
    for row, study in enumerate(found.study):
        first.setdefault(study, row)
    counts |= {"archive_images": len(found.dicom), "archive_studies": len(first), "archive_patients": len(set(found.subject))}
    labelled = _labels(images, labels, first, counts)
    texts = _texts(reports, found, first, counts)
    orders = _orders(found, first, counts)
    origins = {split: f"mimic-cxr/{split}" for split in set(found.split)}
    columns = {
        "image_path": _image_paths(images, found, counts),
        "image_id": found.dicom,
        "patient_id": found.subject,
        "study_id": found.study,
        "report_id": list(found.study),
        **{field.name: [getattr(texts[study], field.name) for study in found.study] for field in dataclasses.fields(_Report)},
        "view": _views(found, counts),
        "split": found.split,
        "origin": [origins[split] for split in found.split],
        "site": [ARCHIVE] * len(found.dicom),
        "study_order": [orders.get(study, "") for study in found.study],
        "study_date": found.date,
        "label_source": [labels if study in labelled else "" for study in found.study],
    }
    blank = ("",) * len(LABELS)
    for number, label in enumerate(LABELS):
        columns[label] = [labelled.get(study, blank)[number] for study in found.study]
    return Pairs(ARCHIVE, columns, pathlib.Path(images), pathlib.Path(reports), counts)


def _image_paths(root: pathlib.Path, found: Images, counts: dict[str, int]) -> list[str]:
    stems = [f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}" for subject, study, dicom in zip(found.subject, found.study, found.dicom, strict=True)]
    there = (form for stem in stems for form in _FORMS if os.path.isfile(f"{root}/{stem}{form}"))
    form = next(there, _FORMS[0])
    counts["images_as_dicom"] = 0 if form == _FORMS[0] else len(stems)
    return [stem + form for stem in stems]


def _views(found: Images, counts: dict[str, int]) -> list[str]:
    decided = [mimic_cxr_tables.view_of(position, code) for position, code in zip(found.position, found.code, strict=True)]
    for decision, number in collections.Counter(decision for _, decision in decided if decision).items():
        counts[decision] = number
    return [view for view, _ in decided]


def _orders(found: Images, first: dict[str, int], counts: dict[str, int]) -> dict[str, str]:
    """Returns the place of each study among the moments of its patient; a study's moment is that of its earliest image."""
    moments: dict[str, datetime.datetime] = {}
    cells: dict[tuple[str, str], datetime.datetime | None] = {}
    for row, (study, date, time) in enumerate(zip(found.study, found.date, found.time, strict=True)):
        if (date, time) not in cells:
            cells[date, time] = mimic_cxr_tables.moment(date, time, found.where, row)
        when = cells[date, time]
        if when is not None:
            moments[study] = min(when, moments.get(study, when))
    times: dict[str, set[datetime.datetime]] = {}
    for study, when in moments.items():
        times.setdefault(found.subject[first[study]], set()).add(when)
    places = {subject: {when: str(place) for place, when in enumerate(sorted(whens))} for subject, whens in times.items()}
    counts["studies_without_time"] = len(first) - len(moments)
    counts["studies_with_time_of_another"] = len(moments) - sum(map(len, places.values()))
    return {study: places[found.subject[first[study]]][when] for study, when in moments.items()}


def _labels(root: pathlib.Path, which: str, first: dict[str, int], counts: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Returns the cells of the studies that somebody labelled."""
    table = mimic_cxr_tables.read_labels(root, which)
    labelled = {study: cells for study, cells in table.items() if study in first}
    said = {study: cells for study, cells in labelled.items() if any(cells)}
    counts["labelled_studies_without_images"] = len(table) - len(labelled)
    counts["studies_not_in_label_table"] = len(first) - len(labelled)
    counts["studies_labelled_blank"] = len(labelled) - len(said)
    return said


def _texts(root: pathlib.Path, found: Images, first: dict[str, int], counts: dict[str, int]) -> dict[str, _Report]:
    none, texts = _Report(), dict[str, _Report]()
    with _open_reports(root) as (source, prefix):
        for study, row in first.items():
            subject, where = found.subject[row], f"{ARCHIVE} report of data row {row + 1}"
            content = source.read(f"{prefix}p{subject[:2]}/p{subject}/s{study}.txt", where)
            texts[study] = none if content is None else _report(archives.text(content, where), study, counts)
            counts["reports_missing"] += content is None
    if counts["reports_missing"] == len(first):
        raise errors.DataError(errors.describe("reports", f"report root of {ARCHIVE}", "files named files/p1x/p1xxxxxxx/s5xxxxxxx.txt", "none of any study"))
    return texts


def _report(text: str, study: str, counts: dict[str, int]) -> _Report:
    said = sections.conclusions(text, study)
    fixed = said.source == sections.HAND_FIXED
    counts["reports_hand_fixed"] += fixed
    counts["reports_without_conclusion"] += not said.labelled_text
    counts["reports_without_findings_or_impression"] += not (fixed or said.findings or said.impression)
    return _Report(said.findings, said.impression, text.strip(), said.labelled_text)


@contextlib.contextmanager
def _open_reports(root: pathlib.Path) -> Iterator[tuple[archives.Source, str]]:
    """Opens the report files (a closed directory counts as an empty one); the second value precedes 'p1x/p1xxxxxxx/s5xxxxxxx.txt' in their names."""
    packed = root / REPORTS_ZIP if os.path.isdir(root) else root
    if os.path.isfile(packed):
        with archives.zipped(packed, f"archive of reports {REPORTS_ZIP!r}") as source:
            yield source, next((match[0] for match in map(_PREFIX.match, source.names()) if match), "")
    else:
        with archives.directory(root / "files" if os.path.isdir(root / "files") else root) as source:
            yield source, ""
