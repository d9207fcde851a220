"""Several archives joined into one cohort: nobody is mixed up, everything is counted."""

import dataclasses
import pathlib

import numpy as np
import pytest
from many_rows import many
from test_table import KEY, base_rows, spoil, written

from relink_jax import errors
from relink_jax.cohort import assemble, columns, recipes, schema, table
from relink_jax.cohort.recipes import Recipe
from relink_jax.store import digests

ALL = Recipe(views=schema.VIEWS)


def two_parts(tmp_path, change=lambda rows: rows):
    """The same table twice under other names, roots and sites: ids are spelt alike, texts are the same."""
    (tmp_path / "b").mkdir()
    first = table.read(written(tmp_path, base_rows()), tmp_path)
    rows = change([row | {"site": "B"} for row in base_rows()])
    return [first, table.read(written(tmp_path / "b", rows, name="other.csv"), tmp_path / "b")]


def joined(parts, recipe=ALL, **options):
    return assemble.assemble(parts, recipe, key=KEY, name="both", **options)


def test_parts_are_apart_and_texts_together(tmp_path):
    parts = two_parts(tmp_path)
    one, both = joined(parts[:1]), joined(parts)
    assert both.image_roots == (tmp_path, tmp_path / "b")
    assert both.image_source.tolist() == [0] * 5 + [1] * 5
    assert both.image_study.tolist() == [*one.image_study.tolist(), *(one.image_study + 4).tolist()]
    assert both.study_patient.tolist() == [0, 1, 1, 2, 3, 4, 4, 5]
    assert both.text == one.text
    assert both.study_text.tolist() == one.study_text.tolist() * 2
    assert both.study_site.tolist() == ["A"] * 4 + ["B"] * 4
    np.testing.assert_array_equal(both.study_labels, np.concatenate([one.study_labels] * 2))
    assert both.image_file(7) == tmp_path / "b" / "im" / "i3.png"
    assert both.image_file(7).is_file()
    assert len(set(both.patient_key)) == 6
    assert both.patient_key[0] == digests.keyed(KEY, "pairs table 'pairs.csv'\n00p1")
    assert one.patient_key[0] == digests.keyed(KEY, "00p1")


def test_counts_carry_the_parts_name(tmp_path):
    parts = two_parts(tmp_path, spoil(0, "split", "train"))
    parts[1] = dataclasses.replace(parts[1], name="MIMIC-CXR", counts={"no report file": 7})
    (tmp_path / "b" / "im" / "i3.png").unlink()
    counts = joined(parts, Recipe(), max_missing_share=0.5).counts
    assert counts["pairs table 'pairs.csv': missing_files"] == 0
    assert counts["MIMIC-CXR: missing_files"] == 1
    assert counts["MIMIC-CXR: no report file"] == 7
    assert (counts["images"], counts["studies"], counts["patients"], counts["unique_texts"]) == (5, 5, 5, 2)


def test_priors_stay_within_their_part(tmp_path):
    parts = two_parts(tmp_path, lambda rows: [row | {"prior_image_id": "i3" if row["image_id"] == "i4" else ""} for row in rows])
    both = joined(parts)
    assert both.image_prior.tolist() == [-1] * 5 + [-1, -1, -1, 7, -1]
    assert (both.counts["images_with_prior"], both.counts["dropped_prior"]) == (1, 0)


def test_a_hash_split_is_the_same_alone_and_joined(tmp_path):
    parts, recipe = two_parts(tmp_path), Recipe(views=schema.VIEWS, split="hash", shares=(0.4, 0.2, 0.4))
    alone = [joined([part], recipe).study_split.tolist() for part in parts]
    assert joined(parts, recipe).study_split.tolist() == alone[0] + alone[1]


def test_a_part_of_which_nothing_is_left_is_no_error_beside_another(tmp_path):
    parts = two_parts(tmp_path, lambda rows: [row | {"view": "OTHER"} for row in rows])
    assert set(joined(parts, Recipe()).image_source) == {0}
    with pytest.raises(errors.DataError, match=r"pairs left in pairs table 'other.csv': expected .* found none of 5 rows"):
        joined(parts[1:], Recipe())


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (lambda one, other: [], "parts in cohort: expected at least one"),
        (lambda one, other: [one, one], "found 2, some of one name"),
        (lambda one, other: [one, dataclasses.replace(other, columns=other.columns | {"site": ["a"] * 5})], "sites in pairs table 'other.csv'"),
    ],
)
def test_parts_that_do_not_go_together(tmp_path, parts, match):
    with pytest.raises(errors.DataError, match=match):
        joined(parts(*two_parts(tmp_path)))


def test_the_wrong_row_is_named_with_its_part(tmp_path):
    with pytest.raises(errors.DataError, match=r"unknown value in pairs table 'other.csv', data row 2, column 'view'"):
        joined(two_parts(tmp_path, spoil(1, "view", "SECRET")))


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("origin", "mimic", "unknown value in MIMIC-CXR, data row 3, column 'origin': expected mimic-cxr/train, .* or blank, found a word of 5 characters"),
        ("findings", "half \ud800", "characters in MIMIC-CXR, data row 3, column 'findings': expected text that UTF-8 can hold"),
        ("image_path", "files/../../x.jpg", "path in MIMIC-CXR, data row 3"),
    ],
)
def test_rows_of_an_archive_keep_the_rules_of_a_table(monkeypatch, column, value, match):
    monkeypatch.setattr(columns, "is_file", lambda path: True)
    part = many(6)
    joined([part])
    part.columns[column][2] = value
    with pytest.raises(errors.DataError, match=match):
        joined([part])


def test_every_column_of_an_archive_ends_up_where_it_belongs(monkeypatch):
    monkeypatch.setattr(columns, "is_file", lambda path: True)
    part = many(60, words=1)
    cohort, rows = joined([part]), part.columns
    kept = [row for row in range(len(part)) if rows["findings"][row] or rows["impression"][row]]
    assert len(kept) < len(part)
    assert cohort.image_path.tolist() == [rows["image_path"][row] for row in kept]
    for image, row in enumerate(kept):
        study = cohort.image_study[image]
        assert cohort.text[cohort.study_text[study]] == f"{rows['findings'][row]} {rows['impression'][row]}".strip()
        assert cohort.study_key[study] == digests.keyed(KEY, rows["study_id"][row])
        assert cohort.patient_key[cohort.study_patient[study]] == digests.keyed(KEY, rows["patient_id"][row])
        assert (cohort.image_view[image], cohort.study_split[study]) == (rows["view"][row], rows["split"][row])
        assert (cohort.study_origin[study], cohort.study_site[study]) == (rows["origin"][row], "MIMIC-CXR")
        assert cohort.study_labels[study].tolist() == [1 if rows[label][row] else schema.BLANK for label in schema.LABELS]
    assert len(set(cohort.text)) == len(cohort.text)
    assert cohort.recipe == ALL.record()


def test_image_files_are_not_looked_for_when_counting():
    part = many(20)
    assert pathlib.Path(part.image_root).exists() is False
    assert assemble.choose(part, recipes.named("all_views"), look=False).keep.any()
    with pytest.raises(errors.DataError, match="missing files in MIMIC-CXR, column 'image_path'"):
        joined([part])
