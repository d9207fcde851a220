"""What the tests of the archives' adapters share: rows of pairs by image, one-sentence refusals, and the comparison with exams."""

import csv
import functools
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import images, published, reports
from relink_jax.cohort.layouts import exams as layout_exams
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.config import PhantomConfig

SMALL = PhantomConfig(seed=3, n_patients=14, image_size=24)


def rows_of(pairs):
    """Returns the rows of pairs as dicts without their blanks, after checking that every column is there and as long as the others."""
    assert set(pairs.columns) == set(published.COLUMNS)
    assert {len(cells) for cells in pairs.columns.values()} == {len(pairs)}
    assert all(type(cell) is str and cell == cell.strip() for cells in pairs.columns.values() for cell in cells)
    return [{name: cells[row] for name, cells in pairs.columns.items() if cells[row]} for row in range(len(pairs))]


def refused(call, *secrets, kind=errors.DataError):
    """Returns the message of the error that `call` ends in: one sentence without any of `secrets`."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert ", found " in message
    assert not [secret for secret in secrets if str(secret) in message]
    return message


def rows_or_none(call):
    """Returns what `call` returns, or None where it ends in a one-sentence `DataError`; whatever else it raises goes on."""
    try:
        return call()
    except errors.DataError as error:
        message = str(error)
    assert "\n" not in message
    return None


def write_csv(path, rows, columns=None):
    """Writes dicts as CSV, gzipped where the name ends in .gz; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path, rows):
    """Writes dicts as Parquet, blank cells as nulls and whole numbers as such; returns the path."""
    columns = {}
    for name in rows[0]:
        cells = [row.get(name, "") or None for row in rows]
        columns[name] = (
            pa.array([int(cell) for cell in cells], pa.int64()) if all(cell and cell.isdecimal() for cell in cells) else pa.array(cells, pa.string())
        )
    pq.write_table(pa.table(columns), path)
    return path


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def picture(path, level=7):
    """Writes a small grey picture whose every pixel is `level`, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 3), level, np.uint8)).save(path)
    return path


@functools.cache
def exam_list(*, first_study_only=False):
    return tuple(layout_exams.exams(SMALL, first_study_only=first_study_only))


def assert_same_as_exams(pairs, exams, *, views, splits, labels):
    """Checks texts, pixels, studies and patients of `pairs` against `exams`; `views` and `splits` say what an adapter makes of them."""
    shots = [(exam, shot) for exam in exams for shot in exam.shots]
    assert len(pairs) == len(shots)
    column = pairs.columns
    for row, (exam, shot) in enumerate(shots):
        for name in ("findings", "impression"):
            assert reports.normalise(column[name][row]) == reports.normalise(getattr(exam, name))
            assert reports.normalise(getattr(exam, name)) in reports.normalise(column["report_text"][row])
        assert (column["view"][row], column["split"][row]) == (views[shot.view], splits[exam.split])
        codes = [{1: "1", 0: "0", -1: "-1", BLANK: ""}[code] if labels and exam.has_labels else "" for code in exam.labels]
        assert [column[label][row] for label in LABELS] == codes
        assert bool(column["label_source"][row]) == (labels and exam.has_labels)
        pixels = images.read_image(pairs.image_root / column["image_path"][row])
        np.testing.assert_array_equal(pixels, shot.pixels().astype(np.float32) / np.float32(255))
    for name, numbers in (("study_id", [exam.study for exam, _ in shots]), ("patient_id", [exam.patient for exam, _ in shots])):
        assert len(set(zip(column[name], numbers, strict=True))) == len(set(column[name])) == len(set(numbers))
    assert column["report_id"] == column["study_id"]
    assert len(set(column["image_id"])) == len(set(column["image_path"])) == len(shots)
