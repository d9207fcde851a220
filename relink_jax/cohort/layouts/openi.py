"""Writes studies as Open-I publishes them, XML reports with flat PNG files, or as the two tables of its Kaggle re-pack."""

import csv
import io
import pathlib
from collections.abc import Iterable
from typing import Any
from xml.sax import saxutils

from relink_jax import errors
from relink_jax.cohort.layouts import png
from relink_jax.cohort.layouts.exams import Exam
from relink_jax.cohort.schema import LABELS
from relink_jax.store import files

_REPORT_COLUMNS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
_IMAGE_COLUMNS = ("uid", "filename", "projection")
_CAPTION, _INDICATION, _COMPARISON = "Xray Chest", "XXXX-year-old.", "None."


def write(exams: Iterable[Exam], directory: pathlib.Path, *, kaggle: bool = False) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the tree under `directory`; returns what `cohort.openi.read` takes: the reports' directory and the images' one.

    Report n is CXRn, from 1 in the order of `exams`, each of another patient, as the collection repeats nobody: take
    `exams(..., first_study_only=True)`. XML (`ecgen-radiology/<n>.xml`, `images/CXR<n>_IM-<n>-<image>.png`) names no view;
    the Kaggle tables say Frontal or Lateral. Splits and labels have no place in either; MeSH terms are written.
    Raises: DataError: a second study of one patient; StoreError: the directory cannot be written.
    """
    directory = pathlib.Path(directory)
    reports, images = _table(_REPORT_COLUMNS), _table(_IMAGE_COLUMNS)
    seen: set[int] = set()
    for uid, exam in enumerate(exams, start=1):
        if exam.patient in seen:
            raise errors.DataError(errors.describe("studies", "Open-I layout", "one of each patient", "a second one of a patient"))
        seen.add(exam.patient)
        names = [f"{uid}_IM-{uid:04d}-{1001 + 1000 * number}" for number in range(len(exam.shots))]
        for name, shot in zip(names, exam.shots, strict=True):
            path = f"images_normalized/{name}.dcm.png" if kaggle else f"images/CXR{name}.png"
            png.save(directory / path, shot.pixels())
            images[1].writerow([uid, f"{name}.dcm.png", "Lateral" if shot.view == "LATERAL" else "Frontal"])
        reports[1].writerow([uid, _mesh(exam), _mesh(exam), _CAPTION, _INDICATION, _COMPARISON, exam.findings, exam.impression])
        if not kaggle:
            files.write_text(directory / "ecgen-radiology" / f"{uid}.xml", _xml(uid, exam, names))
    if not kaggle:
        return directory / "ecgen-radiology", directory / "images"
    for name, table in (("indiana_projections.csv", images), ("indiana_reports.csv", reports)):
        files.write_text(directory / name, table[0].getvalue())
    return directory, directory / "images_normalized"


def _table(columns: tuple[str, ...]) -> tuple[io.StringIO, Any]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    return text, writer


def _mesh(exam: Exam) -> str:
    """Returns the positive findings as index terms, 'normal' when there is none."""
    return ";".join(label for label, code in zip(LABELS[1:], exam.labels[1:], strict=True) if code == 1) or "normal"


def _xml(uid: int, exam: Exam, names: list[str]) -> str:
    sections = (("COMPARISON", _COMPARISON), ("INDICATION", _INDICATION), ("FINDINGS", exam.findings), ("IMPRESSION", exam.impression))
    abstract = "\n".join(
        f'            <AbstractText Label="{name}">{saxutils.escape(text)}</AbstractText>' if text else f'            <AbstractText Label="{name}"/>'
        for name, text in sections
    )
    terms = "\n".join(f"      <major>{saxutils.escape(term)}</major>" for term in _mesh(exam).split(";"))
    pictures = "\n".join(
        f'   <parentImage id="CXR{name}">\n      <figureId>F{number}</figureId>\n      <caption>{_CAPTION}</caption>\n   </parentImage>'
        for number, name in enumerate(names, start=1)
    )
    return _TEMPLATE.format(uid=uid, abstract=abstract, terms=terms, pictures=pictures)


_TEMPLATE = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{uid}"/>
   <pmcId id="{uid}"/>
   <docSource>CXR</docSource>
   <IUXRId id="{uid}"/>
   <MedlineCitation Owner="relink_jax" Status="synthetic">
      <Article PubModel="Electronic">
         <ArticleTitle>Synthetic chest X-ray report</ArticleTitle>
         <Abstract>
{abstract}
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{terms}
   </MeSH>
{pictures}
</eCitation>
"""
