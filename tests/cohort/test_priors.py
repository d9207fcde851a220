"""Prior images: which image of the table an image is compared with, what is counted, and one sentence for each way it can be wrong."""

import csv
import dataclasses

import numpy as np
import pytest
from test_cohort_schema import small
from test_table import base_rows, parquet_of, read, spoil, written

from relink_jax import errors
from relink_jax.cohort import schema
from relink_jax.cohort.phantom import generate
from relink_jax.config import PhantomConfig

ALL = ("PA", "AP", "LATERAL")


def rows_with(**priors):
    """The rows of `test_table`, of one patient and in time order, whose images `i1` to `i5` have these priors."""
    numbers = {"s1": "9", "s2": "10", "s3": "10.0", "s4": "x"}
    changes = {"patient_id": "p", "split": "test"}
    return [row | changes | {"study_order": numbers[row["study_id"]], "prior_image_id": priors.get(row["image_id"], "")} for row in base_rows()]


def test_a_prior_is_joined_by_its_id_and_counted(tmp_path):
    path = written(tmp_path, rows_with(i3="i1", i5="i3", i4="i2"))
    cohort = read(path, views=ALL)
    assert cohort.image_path.tolist() == [f"im/i{number}.png" for number in range(1, 6)]
    assert cohort.image_prior.tolist() == [-1, -1, 0, 1, 2]
    assert cohort.image_prior.dtype == np.int32
    assert (cohort.counts["images_with_prior"], cohort.counts["dropped_prior"]) == (3, 0)
    assert read(parquet_of(tmp_path / "pairs.parquet", rows_with(i3="i1", i5="i3", i4="i2")), views=ALL).digest() == cohort.digest()


def test_a_prior_whose_image_was_left_out_is_none_and_counted(tmp_path):
    rows = rows_with(i3="i2", i5="i3", i4="i1")
    assert read(written(tmp_path, rows)).image_prior.tolist() == [-1, -1, 1]
    assert read(tmp_path / "pairs.csv").counts["dropped_prior"] == 1
    (tmp_path / "im" / "i3.png").unlink()
    lost = read(tmp_path / "pairs.csv", max_missing_share=0.5)
    assert lost.image_prior.tolist() == [-1, -1]
    assert (lost.counts["images_with_prior"], lost.counts["dropped_prior"]) == (0, 1)


def test_a_table_without_the_column_has_no_priors_and_counts_none(tmp_path):
    cohort = read(written(tmp_path, base_rows()))
    assert cohort.image_prior.tolist() == [-1, -1, -1]
    assert not {"images_with_prior", "dropped_prior"} & set(cohort.counts)


def test_two_reports_of_one_image_name_one_prior(tmp_path):
    rows = rows_with(i3="i1")
    again = rows[2] | {"report_id": "another"}
    cohort = read(written(tmp_path, [*rows, again]), views=ALL)
    assert cohort.image_prior.tolist() == [-1, -1, 0, -1, -1]
    with pytest.raises(errors.DataError, match=r"image under two values of 'prior_image_id' in .*data row 6: expected one prior image per image"):
        read(written(tmp_path, [*rows, again | {"prior_image_id": ""}]))


BAD = {
    "no such image": (spoil(2, "prior_image_id", "SECRET"), "an image of the table, or a blank, found one that is in no row"),
    "itself": (spoil(2, "prior_image_id", "i3"), "another image than the row's own, found its own"),
    "of another patient": (
        spoil(4, "patient_id", "Q0077", also={"prior_image_id": "i1"}),
        "an image of the same patient, found another patient's, of data row 1",
    ),
    "of a later study": (spoil(0, "prior_image_id", "i3"), "an image of an earlier study, found one of a later study_order, of data row 3"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_wrong_prior_gets_one_sentence_that_names_the_row(tmp_path, name):
    change, sentence = BAD[name]
    rows = change(rows_with())
    row = next(number for number, one in enumerate(rows, 1) if one["prior_image_id"])
    with pytest.raises(errors.DataError) as caught:
        read(written(tmp_path, rows, files=False))
    assert str(caught.value) == f"prior image in pairs table 'pairs.csv', data row {row}, column 'prior_image_id': expected {sentence}"


def test_the_order_of_studies_is_that_of_numbers_and_what_is_no_number_has_none(tmp_path):
    for row, prior in (("i3", "i1"), ("i3", "i4"), ("i4", "i3"), ("i1", "i5"), ("i5", "i1")):
        assert read(written(tmp_path, rows_with(**{row: prior})), views=ALL).counts["images_with_prior"] == 1


@pytest.mark.parametrize(
    ("priors", "match"),
    [
        ([-1, -1, 4, -1], r"index image_prior in cohort: expected int32 in \[-1, 4\), found int32 or out of range"),
        ([-2, -1, 0, -1], "index image_prior"),
        ([-1, 1, 0, -1], "prior images in cohort: expected another image of the same patient, found 1 that are none"),
        ([3, -1, -1, 0], "prior images in cohort: .* found 2 that are none"),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors, match):
    with pytest.raises(errors.DataError, match=match):
        small(image_prior=np.array(priors, np.int32))
    assert small(image_prior=np.array([-1, 0, 1, -1], np.int32)).digest() != small().digest()


def test_a_saved_prior_comes_back(tmp_path):
    cohort = read(written(tmp_path, rows_with(i3="i1")))
    cohort.save(tmp_path / "cohort")
    np.testing.assert_array_equal(schema.load(tmp_path / "cohort", tmp_path).image_prior, cohort.image_prior)
    with pytest.raises(errors.DataError, match="index image_prior"):
        dataclasses.replace(cohort, image_prior=cohort.image_prior.astype(np.int64))


def test_the_phantom_compares_with_the_latest_earlier_image_of_the_same_view(tmp_path):
    path = generate(PhantomConfig(seed=3, n_patients=40, image_size=32), tmp_path)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        earlier = [
            other
            for other in rows
            if other["patient_id"] == row["patient_id"]
            and int(other["study_order"]) < int(row["study_order"])
            and (other["view"] == "LATERAL") == (row["view"] == "LATERAL")
        ]
        latest = max((int(other["study_order"]) for other in earlier), default=-1)
        expected = next((other["image_id"] for other in earlier if int(other["study_order"]) == latest), "")
        assert row["prior_image_id"] == expected
    named = [row for row in rows if row["prior_image_id"]]
    assert {row["view"] for row in named} == set(ALL)
    assert {row["view"] == "LATERAL" for row in rows if not row["prior_image_id"] and row["study_order"] != "0"} == {True}
    cohort = read(path, views=ALL, name="phantom", synthetic=True)
    kept = set(cohort.image_path.tolist())
    there = {row["image_id"] for row in rows if row["image_path"] in kept}
    assert cohort.counts["images_with_prior"] == sum(row["prior_image_id"] in there for row in rows if row["image_path"] in kept)
