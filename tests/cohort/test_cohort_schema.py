"""A saved cohort comes back the same or not at all."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.cohort import schema
from relink_jax.cohort.schema import BLANK, LABELS, Cohort
from relink_jax.store import digests, files


def small(**changes):
    labels = np.full((3, len(LABELS)), BLANK, np.int8)
    labels[1, 2], labels[2, 5] = 1, -1
    values = {
        "name": "small",
        "synthetic": True,
        "image_roots": (pathlib.Path("/images"), pathlib.Path("/more")),
        "image_key": np.array(["a", "b", "c", "d"]),
        "image_study": np.array([0, 0, 1, 2], np.int32),
        "image_source": np.array([0, 0, 1, 1], np.int32),
        "image_path": np.array(["0.png", "1.png", "2.png", "3.png"], dtype=object),
        "image_view": np.array(["PA", "LATERAL", "AP", "PA"], dtype=object),
        "image_prior": np.array([-1, -1, 0, -1], np.int32),
        "study_key": np.array(["s", "t", "u"]),
        "study_patient": np.array([0, 0, 1], np.int32),
        "study_split": np.array(["train", "train", "test"], dtype=object),
        "study_site": np.array(["A", "A", "B"], dtype=object),
        "study_exposure": np.array(["unseen"] * 3, dtype=object),
        "study_origin": np.array(["openi", "openi", ""], dtype=object),
        "study_text": np.array([0, 1, 0], np.int32),
        "study_labels": labels,
        "study_has_labels": np.array([False, True, True]),
        "patient_key": np.array(["p", "q"]),
        "text": ["Clear.", 'Größe ↑, "quoted"\x00?'],
        "text_key": np.array(["x", "y"]),
        "counts": {"rows_read": 4},
        "recipe": {"name": "frontal_image", "views": ["PA", "AP"]},
    }
    return Cohort(**(values | changes))


def test_round_trip(tmp_path):
    cohort = small()
    digest = cohort.save(tmp_path / "cohort")
    loaded = schema.load(tmp_path / "cohort", [pathlib.Path("/elsewhere"), pathlib.Path("/there")])
    assert loaded.digest() == digest == cohort.digest()
    assert [str(loaded.image_file(row)) for row in range(4)] == ["/elsewhere/0.png", "/elsewhere/1.png", "/there/2.png", "/there/3.png"]
    for field in dataclasses.fields(Cohort):
        one, other = getattr(cohort, field.name), getattr(loaded, field.name)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, other)
            assert one.dtype.kind == other.dtype.kind
        elif field.name != "image_roots":
            assert one == other


def test_saved_files_are_private(tmp_path):
    small().save(tmp_path / "cohort")
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "cohort").iterdir())


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("study_labels", lambda a: np.where(a == 1, 0, a).astype(np.int8)),
        ("study_text", lambda a: a[::-1].copy() * 0),
        ("image_view", lambda a: a[::-1].copy()),
        ("image_path", lambda a: a[::-1].copy()),
        ("study_site", lambda a: a[::-1].copy()),
        ("text", lambda a: a[::-1]),
        ("counts", lambda a: {"rows_read": 5}),
        ("name", lambda a: "other"),
        ("image_source", lambda a: a[::-1].copy()),
        ("study_origin", lambda a: a[::-1].copy()),
        ("recipe", lambda a: {**a, "views": ["PA"]}),
    ],
)
def test_digest_covers_content(field, change):
    cohort = small()
    assert dataclasses.replace(cohort, **{field: change(getattr(cohort, field))}).digest() != cohort.digest()


@pytest.mark.parametrize("table", ["images", "studies", "patients", "texts"])
def test_a_flipped_bit_is_found(tmp_path, table):
    small().save(tmp_path)
    path = tmp_path / f"{table}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(errors.StoreError, match=f"table corrupted in workdir entry '{table}.parquet'"):
        schema.load(tmp_path, [tmp_path] * 2)


def test_too_few_roots_are_refused_and_the_recipe_is_recorded(tmp_path):
    small().save(tmp_path)
    record = json.loads((tmp_path / "cohort.json").read_text())
    assert record["recipe"] == {"name": "frontal_image", "views": ["PA", "AP"]}
    assert record["recipe_sha256"] == digests.value_digest(record["recipe"])
    with pytest.raises(errors.StoreError, match=r"cohort damaged .*index image_source"):
        schema.load(tmp_path, tmp_path)


def test_tables_of_another_cohort_are_refused(tmp_path):
    small().save(tmp_path / "one")
    small(text=["Other.", "Texts."]).save(tmp_path / "two")
    for name in ("texts.parquet", "texts.parquet.sha256"):
        (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(errors.StoreError, match="cohort changed"):
        schema.load(tmp_path / "one", [tmp_path] * 2)


@pytest.mark.parametrize("n", range(1, 10))
def test_an_interrupted_save_is_never_read(tmp_path, n):
    with files.fail_at(n), pytest.raises(errors.StoreError):
        small().save(tmp_path)
    with pytest.raises(errors.StoreError):
        schema.load(tmp_path, [tmp_path] * 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_study": np.array([0, 0, 1, 3], np.int32)}, "index image_study"),
        ({"image_study": np.array([0, 0, 1, 2], np.int64)}, "index image_study"),
        ({"study_patient": np.array([0, -1, 1], np.int32)}, "index study_patient"),
        ({"image_view": np.array(["PA"], dtype=object)}, "column image_view in cohort: expected 4 rows, found 1"),
        ({"image_roots": (pathlib.Path("/images"),)}, "index image_source in cohort: expected int32 in .0, 1.*"),
        ({"study_has_labels": np.array([True])}, "column study_has_labels"),
        ({"study_labels": np.full((3, 14), 2, np.int8)}, "study_labels"),
        ({"study_labels": np.full((3, 13), 1, np.int8)}, "study_labels"),
        ({"patient_key": np.array(["p", "p"])}, "duplicate patient_key in cohort: expected distinct keys, found 1 repeated"),
        (
            {"study_split": np.array(["train", "test", "test"], dtype=object)},
            "patients in two splits in cohort: expected every patient in one split, found 1 in more",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, match):
    with pytest.raises(errors.DataError, match=match):
        small(**changes)
