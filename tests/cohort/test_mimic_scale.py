"""MIMIC-CXR at its published size, by number of rows: minutes of one core and a few gigabytes."""

import csv
import gzip
import subprocess
import sys
import textwrap
import zipfile

import pytest
from mimic_tree import ALPHABETICAL, HEAD, dicom

IMAGES, STUDIES, PATIENTS, FILES = 400_000, 230_000, 65_000, 20_000
WORDS = " The lungs are clear and there is no pleural effusion or pneumothorax.\n"


def ids(number):
    study = number % STUDIES
    patient = f"{10_000_001 + study % PATIENTS}"
    return patient, f"{50_000_001 + study}"


def put(path, header, rows):
    with gzip.open(path, "wt", compresslevel=1, newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    images, texts = root / "jpg", root / "texts"
    images.mkdir()
    names = [(dicom(number), *ids(number)) for number in range(IMAGES)]
    head = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "StudyDate", "StudyTime", "ViewCodeSequence_CodeMeaning")
    metadata = (
        (*name, ("PA", "AP", "LL", "")[number % 4], 3056, 21100101 + number % 28, f"{number % 24}0{number % 6}1{number % 10}.{number % 1000}", "lateral")
        for number, name in enumerate(names)
    )
    put(images / "mimic-cxr-2.0.0-metadata.csv.gz", head, metadata)
    put(images / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), ((d, t, s, "train") for d, s, t in names))
    labels = (("50000001" if not n else ids(n)[1], *("1.0" if (n + k) % 5 == 0 else "" for k in range(14))) for n in range(STUDIES))
    put(images / "mimic-cxr-2.0.0-chexpert.csv.gz", ("study_id", *ALPHABETICAL), labels)
    reports = {}
    for number in range(STUDIES):
        patient, study = ids(number)
        reports[f"files/p10/p{patient}/s{study}.txt"] = f"{HEAD} FINDINGS:  Study {study}.\n{WORDS * 8} \n IMPRESSION:  Reading {study}.\n{WORDS}"
    for name in list(reports)[:FILES]:
        path = texts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(reports[name])
    with zipfile.ZipFile(root / "reports.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in reports.items():
            archive.writestr(name, text)
    return images, texts, root / "reports.zip"


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_the_published_size_takes_minutes_and_gigabytes(roots, zipped):
    images, texts, packed = roots
    code = f"""
        import pathlib, resource, time
        from relink_jax.cohort import mimic_cxr
        before = resource.getrusage(resource.RUSAGE_SELF)
        pairs = mimic_cxr.read(pathlib.Path({str(images)!r}), pathlib.Path({str(packed if zipped else texts)!r}))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(len(pairs), pairs.counts["reports_missing"], used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    rows, missing, seconds, gigabytes = done.stdout.split()
    print(done.stdout)
    assert (int(rows), int(missing)) == (IMAGES, 0 if zipped else STUDIES - FILES)
    assert float(seconds) < 300
    assert float(gigabytes) < 3
