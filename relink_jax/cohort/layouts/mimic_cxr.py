"""Writes synthetic studies as MIMIC-CXR-JPG 2.1.0 and MIMIC-CXR 2.1.0 are published: tables, picture files and report files.

Numbers of patients and studies start at 10000001 and 50000001; like the archive's, those of studies say nothing about time,
and dates are shifted into the future. Labels stand in the tables of both labelers and, for the test split, of the radiologists.

References: physionet.org/content/mimic-cxr-jpg/2.1.0, physionet.org/content/mimic-cxr/2.1.0; MIT-LCP/mimic-cxr, website/content/data.
"""

import csv
import dataclasses
import datetime
import gzip
import hashlib
import io
import pathlib
import re
import zipfile
from collections.abc import Iterable, Sequence

from relink_jax import errors
from relink_jax.cohort import mimic_cxr_tables, reports, sections
from relink_jax.cohort.layouts.exams import Exam, Shot
from relink_jax.cohort.mimic_cxr import REPORTS_ZIP
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.store import files

JPG, REPORTS = pathlib.PurePosixPath("mimic-cxr-jpg/2.1.0"), pathlib.PurePosixPath("mimic-cxr/2.1.0")
WIDTH = 79  # longest line of a report

_STUDIES, _SCRAMBLE = 1_000_000, 7919  # study numbers run through a million in steps prime to it
_LEAST = datetime.datetime(2110, 1, 1)
_TITLE = " " * 33 + "FINAL REPORT\n"
_HEADER = re.compile(r"[A-Z ()/,-]+:(\s|$)")
_PROCEDURES = {"PA": "CHEST (PA AND LAT)", "LATERAL": "CHEST (PA AND LAT)", "AP": "CHEST (PORTABLE AP)"}
_CODES = {"PA": "postero-anterior", "LATERAL": "lateral", "AP": "antero-posterior"}
_ALPHABETICAL = tuple(sorted(LABELS))


@dataclasses.dataclass
class _Lists:
    metadata: list[tuple]
    split: list[tuple]
    labels: list[tuple]
    radiologist: list[tuple]
    studies: list[tuple]
    texts: dict[str, str]


def write(exams: Iterable[Exam], directory: pathlib.Path, *, compressed: bool = True, zipped: bool = False) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes both trees under `directory`.

    Args:
        compressed: tables as .csv.gz, as published; else plain. The radiologists' table is published plain.
        zipped: reports inside mimic-cxr-reports.zip instead of as files.

    Returns: the image root (tables, JPEG files) and the report root or zip, as `mimic_cxr.read` takes them.
    Raises: StoreError: not writable. DataError: a report that the official section rule would cut otherwise.
    """
    images, texts = pathlib.Path(directory) / JPG, pathlib.Path(directory) / REPORTS
    lists = _Lists([], [], [], [], [], {})
    for exam in exams:
        _add(exam, images, lists)
    _write_tables(images, texts, lists, compressed)
    if not zipped:
        for name, text in lists.texts.items():
            _put(texts / name, text.encode())
        return images, texts
    files.write_with(texts / REPORTS_ZIP, lambda temporary: _zip(temporary, lists.texts))
    return images, texts / REPORTS_ZIP


def names(exam: Exam) -> tuple[str, str, list[str]]:
    """Returns the subject_id, the study_id and the dicom_id of each image that an exam is written under."""
    study = 50_000_001 + exam.study * _SCRAMBLE % _STUDIES
    digests = [hashlib.sha1(f"relink {study} {shot}".encode()).hexdigest() for shot in range(len(exam.shots))]
    return str(10_000_001 + exam.patient), str(study), ["-".join(digest[i : i + 8] for i in range(0, 40, 8)) for digest in digests]


def report(findings: str, impression: str, title: str = "CHEST (PA AND LAT)") -> str:
    """Returns a report file: one leading space, lines up to `WIDTH`, a single space on blank lines, sections where there is text.

    Raises: DataError: the official rule does not give the two texts back, as for a text that holds a paragraph with a header.
    """
    stated = [(name, reports.normalise(body)) for name, body in (("FINDINGS", findings), ("IMPRESSION", impression)) if body.strip()]
    parts = [("EXAMINATION", title), ("INDICATION", "___ year old patient  // ?acute process")]
    parts += [("COMPARISON", "___."), *stated] if stated else []  # a comparison alone would be read as the conclusion
    text = _TITLE + "\n \n".join(_section(name, body) for name, body in parts) + "\n"
    said = sections.conclusions(text)
    if (reports.normalise(said.findings), reports.normalise(said.impression)) != (reports.normalise(findings), reports.normalise(impression)):
        raise errors.DataError(errors.describe("report", "layout MIMIC-CXR", "sections that the official rule finds again", "some that it cuts otherwise"))
    return text


def _section(name: str, body: str) -> str:
    lines, words = [f" {name}:  "], body.split(" ")
    while words:
        taken = _words_of_line(words, WIDTH - len(lines[-1]))
        lines[-1] += " ".join(words[:taken])
        words = words[taken:]
        lines += [" "] if words else []
    return "\n".join(lines)


def _words_of_line(words: Sequence[str], room: int) -> int:
    """Returns how many words go on a line so that the rest does not start like a header, as 'HEART: ...' would."""
    fitting, length = 0, -1
    while fitting < len(words) and length + 1 + len(words[fitting]) <= room:
        length += 1 + len(words[fitting])
        fitting += 1
    for taken in range(fitting, 0, -1):
        if not _HEADER.match(" ".join(words[taken : taken + 12])):
            return taken
    return max(fitting, 1)


def _add(exam: Exam, images: pathlib.Path, lists: _Lists) -> None:
    subject, study, dicoms = names(exam)
    folder = f"files/p{subject[:2]}/p{subject}"
    for dicom, shot in zip(dicoms, exam.shots, strict=True):
        _put(images / folder / f"s{study}/{dicom}.jpg", shot.jpeg)
        lists.metadata.append(_metadata(exam, shot, (dicom, subject, study)))
        lists.split.append((dicom, study, subject, exam.split))
    lists.studies.append((subject, study, f"{folder}/s{study}.txt"))
    lists.texts[f"{folder}/s{study}.txt"] = report(exam.findings, exam.impression, _PROCEDURES[exam.shots[0].view])
    if exam.has_labels:
        cells = dict(zip(LABELS, ("" if code == BLANK else f"{code}.0" for code in exam.labels), strict=True))
        lists.labels.append((subject, study, *(cells[label] for label in _ALPHABETICAL)))
        if exam.split == "test":
            lists.radiologist.append((study, *(cells[label] for label in LABELS)))


def _metadata(exam: Exam, shot: Shot, ids: tuple[str, str, str]) -> tuple:
    height, width = shot.pixels().shape
    start = _LEAST + datetime.timedelta(days=exam.patient * 37 % 20_000 + 11 * exam.order, seconds=exam.study * _SCRAMBLE % 86_400)
    time = f"{int(f'{start:%H%M%S}')}.{exam.study % 1000:03d}"
    upright = "Recumbent" if shot.view == "AP" else "Erect"
    return (*ids, _PROCEDURES[shot.view], shot.view, height, width, f"{start:%Y%m%d}", time, _PROCEDURES[shot.view], _CODES[shot.view], upright)


def _write_tables(images: pathlib.Path, texts: pathlib.Path, lists: _Lists, compressed: bool) -> None:
    header = ("subject_id", "study_id", *_ALPHABETICAL)
    renamed = [mimic_cxr_tables.SPELLINGS.get(label, label) for label in LABELS]
    paths = [(s, t, d, f"files/p{s[:2]}/p{s}/s{t}/{d}") for d, s, t, *_ in sorted(lists.metadata, key=_by_study)]
    tables = mimic_cxr_tables.LABEL_TABLES
    _table(images / mimic_cxr_tables.METADATA, mimic_cxr_tables.METADATA_COLUMNS, sorted(lists.metadata, key=_by_study), compressed)
    _table(images / mimic_cxr_tables.SPLIT, mimic_cxr_tables.SPLIT_COLUMNS, sorted(lists.split, key=lambda row: (row[2], row[1], row[0])), compressed)
    _table(images / tables["chexpert"], header, sorted(lists.labels), compressed)
    _table(images / tables["negbio"], header, sorted(lists.labels), compressed)
    _table(images / tables["radiologist"], ("study_id", *renamed), sorted(lists.radiologist), False)
    _table(texts / "cxr-study-list.csv", ("subject_id", "study_id", "path"), sorted(lists.studies), compressed)
    _table(texts / "cxr-record-list.csv", ("subject_id", "study_id", "dicom_id", "path"), [(*row[:3], f"{row[3]}.dcm") for row in paths], compressed)
    files.write_text(images / "IMAGE_FILENAMES", "".join(f"{row[3]}.jpg\n" for row in paths))


def _by_study(row: Sequence) -> tuple[str, str, str]:
    return row[1], row[2], row[0]


def _table(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence], compressed: bool) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = stream.getvalue().encode()
    if compressed:
        files.write_bytes(path.with_name(f"{path.name}.gz"), gzip.compress(content, mtime=0))
    else:
        files.write_bytes(path, content)


def _zip(path: pathlib.Path, texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _put(path: pathlib.Path, content: bytes) -> None:
    files.make_dir(path.parent)
    try:
        path.touch(mode=0o600)
        path.write_bytes(content)
    except OSError as error:
        raise errors.StoreError(
            errors.describe("write failed", "layout MIMIC-CXR", "a writable place with free space", error.strerror or "an error")
        ) from error
