"""Facts about studies, from a table's cells to the saved cohort and back."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cohort_schema import small
from test_table import KEY, base_rows, written

from relink_jax import cohort_config, errors
from relink_jax.cohort import assemble, check, columns, facts, recipes, schema, table

RECIPE = recipes.Recipe(views=("PA", "AP", "LATERAL"))


def rows_with(**cells):
    """Returns the five base rows (studies s1, s1, s2, s3, s4) with further columns, five cells each."""
    rows = base_rows()
    for name, values in cells.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def made(tmp_path, named=(), recipe=RECIPE, **cells):
    path = written(tmp_path, rows_with(**cells))
    return assemble.assemble([table.read(path, tmp_path, named)], recipe, key=KEY, name="x")


def test_each_study_has_its_facts(tmp_path):
    cohort = made(
        tmp_path,
        ("ward", "site"),
        sex=["Male", "M", "f", "", "unknown"],
        age_years=["61.0", "61", "045Y", "93", ">89"],
        ward=["A", "A", "B 2", "=1+1", ""],
        scanner=["x"] * 5,
    )
    found = {name: values.tolist() for name, values in cohort.study_facts.items()}
    assert found["sex"] == ["M", "F", "", ""]
    assert found["age_years"] == [61, 45, 90, 90]
    assert found["views"] == ["LATERAL+PA", "AP", "LATERAL", "PA"]
    assert (found["ward"], found["site"]) == (["A", "B 2", "=1+1", ""], ["A"] * 4)
    assert found["report_words"] == [4, 2, 2, 4]
    assert found["sentences"] == [2, 1, 1, 2]
    assert found["rare_words"] == [1, 2, 2, 1]  # each word of both equal reports is in two of four; the others' words are in one
    assert set(found) == {*facts.BUILT_IN, "ward", "site"}
    assert not [name for name in cohort.counts if "ward" in name or "sex" in name or "age" in name.split("_")]


def test_the_first_row_that_says_something_counts_and_others_are_counted(tmp_path):
    cohort = made(tmp_path, ("ward",), sex=["", "F", "M", "?", "X"], age_years=["60", "61", "12O", "-1", "999"], ward=["", "B", "A", "A", "A"])
    assert cohort.study_facts["sex"].tolist() == ["F", "M", "", ""]
    assert cohort.study_facts["ward"].tolist() == ["B", "A", "A", "A"]
    np.testing.assert_array_equal(cohort.study_facts["age_years"], [60, np.nan, np.nan, np.nan])
    told = {name: count for name, count in cohort.counts.items() if name.startswith(("unreadable", "studies_disagreeing"))}
    assert told == {"unreadable_sex": 2, "studies_disagreeing_on_age_years": 1, "unreadable_age_years": 3}


def test_rows_that_are_left_out_say_nothing(tmp_path):
    cohort = made(tmp_path, ("ward",), recipes.Recipe(views=("PA", "AP")), ward=["A", "B", "C", "D", "E"], sex=["M", "F", "", "F", ""])
    assert cohort.study_facts["ward"].tolist() == ["A", "C", "E"]
    assert cohort.study_facts["sex"].tolist() == ["M", "", ""]
    assert cohort.study_facts["views"].tolist() == ["PA", "AP", "PA"]
    assert "studies_disagreeing_on_ward" not in cohort.counts


def test_what_nobody_recorded_is_left_out(tmp_path):
    assert set(made(tmp_path).study_facts) == {"views", "report_words", "sentences", "rare_words"}


def test_facts_of_parts_are_joined(tmp_path):
    (tmp_path / "b").mkdir()
    first = table.read(written(tmp_path, rows_with(ward=["A"] * 5, sex=["F"] * 5)), tmp_path, ("ward",))
    second = table.read(written(tmp_path / "b", base_rows(), name="other.csv"), tmp_path / "b")
    cohort = assemble.assemble([first, second], RECIPE, key=KEY, name="x")
    assert cohort.study_facts["ward"].tolist() == ["A"] * 4 + [""] * 4
    assert cohort.study_facts["rare_words"].tolist() == [1, 2, 2, 1] * 2


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("0", "0"),
        ("006M", "0"),
        ("18m", "1"),
        ("104W", "2"),
        ("400D", "1"),
        ("90+", "90"),
        ("120", "90"),
        ("121", None),
        ("61 y", None),
        ("٣", "3"),
        ("nan", None),
    ],
)
def test_ages(cell, wanted):
    assert facts.age(cell) == wanted


@pytest.mark.parametrize(
    ("named", "value", "match"),
    [
        ("wards", "A", r"column 'wards' in pairs table 'pairs.csv': expected it in the header, found no such column; did you mean 'ward'\?"),
        ("ward", "x" * 65, "fact in pairs table 'pairs.csv', data row 3, column 'ward': expected at most 64 printable characters, found 65 characters"),
        ("ward", "x" * 10_000, "data row 3, column 'ward': expected at most 64 printable characters, found 10,000 characters"),
        ("ward", "a\nb", "data row 3, column 'ward': expected at most 64 printable characters, found 3 characters"),
    ],
)
def test_a_wrong_fact_is_one_sentence(tmp_path, named, value, match):
    with pytest.raises(errors.DataError, match=match) as caught:
        made(tmp_path, (named,), ward=["A", "A", value, "A", "A"])
    assert value not in str(caught.value) or value == "A"
    path = tmp_path / "pairs.csv"
    assert check.check_table(path, tmp_path, RECIPE, facts=(named,))[0].told(columns.called(path)) == str(caught.value)


def test_a_column_that_tells_everybody_apart_is_refused(monkeypatch):
    rows = [{"image_path": f"{n}.png", "patient_id": str(n), "study_id": str(n), "report_text": "x", "accession": f"A{n}"} for n in range(1001)]
    part = assemble.Pairs("x", {name: [row[name] for row in rows] for name in rows[0]}, pathlib.Path(), pathlib.Path(), {}, ("accession",))
    with pytest.raises(errors.DataError, match="distinct values of a fact in x, column 'accession': expected at most 1,000, as categories have, found 1,001"):
        assemble.choose(part, recipes.Recipe(text_field="report_text"), look=False)


def test_a_named_column_is_no_misspelt_one_and_comes_once(tmp_path):
    rows = [{name: cell for name, cell in row.items() if name != "site"} for row in rows_with(sites=["A"] * 5)]
    path = written(tmp_path, rows)
    with pytest.raises(errors.DataError, match="did you mean 'site'"):
        table.read(path, tmp_path)
    assert table.read(path, tmp_path, ("sites",)).columns["sites"] == ["A"] * 5
    text = path.read_text().replace("label_source", "sites", 1)
    path.write_text(text)
    with pytest.raises(errors.DataError, match="column 'sites' twice"):
        table.read(path, tmp_path, ("sites",))


def test_parquet_gives_the_same_facts(tmp_path):
    rows = rows_with(ward=["1", "1", "2", "", "3"], age_years=["61", "61", "", "93", "5"], sex=["M", "M", "F", "", "F"])
    written(tmp_path, rows)
    frame = {name: pa.array([row[name] or None for row in rows]) for name in rows[0] if name not in schema.LABELS}
    frame |= {"age_years": pa.array([61.0, 61.0, None, 93.0, 5.0]), "ward": pa.array([1, 1, 2, None, 3])}
    pq.write_table(pa.table(frame), tmp_path / "pairs.parquet")
    one, other = (assemble.assemble([table.read(tmp_path / f"pairs.{kind}", tmp_path, ("ward",))], RECIPE, key=KEY, name="x") for kind in ("csv", "parquet"))
    assert list(one.study_facts) == list(other.study_facts)
    for name, values in one.study_facts.items():
        np.testing.assert_array_equal(values, other.study_facts[name])
    pq.write_table(pa.table(frame | {"ward": pa.array([[1]] * 5)}), tmp_path / "pairs.parquet")
    with pytest.raises(errors.DataError, match="type of column 'ward'"):
        table.read(tmp_path / "pairs.parquet", tmp_path, ("ward",))


FACTS = {"ward": np.array(["A", "", "=cmd|' /C calc'!A0"], object), "age_years": np.array([60.0, np.nan, 90.0])}


def test_facts_come_back_and_are_part_of_the_digest(tmp_path):
    plain, cohort = small(), small(study_facts=FACTS)
    digest = cohort.save(tmp_path / "cohort")
    loaded = schema.load(tmp_path / "cohort", [pathlib.Path("/images"), pathlib.Path("/more")])
    assert loaded.digest() == digest != plain.digest()
    for name, values in FACTS.items():
        np.testing.assert_array_equal(loaded.study_facts[name], values)
        assert loaded.study_facts[name].dtype == values.dtype
        changed = values[::-1].copy()
        assert small(study_facts=FACTS | {name: changed}).digest() != digest
    assert small(study_facts={"ward": FACTS["age_years"]}).digest() != small(study_facts={"age": FACTS["age_years"]}).digest()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "cohort").iterdir())


def test_a_cohort_saved_without_facts_is_as_it_was(tmp_path):
    small().save(tmp_path / "cohort")
    assert not [name for name in pq.read_table(tmp_path / "cohort" / "studies.parquet").column_names if name.startswith("fact:")]
    assert schema.load(tmp_path / "cohort", [pathlib.Path("/images"), pathlib.Path("/more")]).study_facts == {}


@pytest.mark.parametrize("values", [np.array(["A"], object), np.zeros((3, 1)), np.zeros(3, np.int32)])
def test_facts_that_do_not_fit_are_refused(values):
    with pytest.raises(errors.DataError, match=r"fact 'ward' in cohort: expected \[3\] strings or float64"):
        dataclasses.replace(small(), study_facts={"ward": values})


@pytest.mark.parametrize(
    "change",
    [
        {"facts": ("ward", "ward"), "source": "table"},
        {"facts": ("patient_id",), "source": "table"},
        {"facts": ("findings",), "source": "table"},
        {"facts": ("label_view",), "source": "table"},
        {"facts": ("ward",), "source": "phantom"},
        {"facts": ("w" * 65,), "source": "table"},
    ],
)
def test_facts_that_are_none_are_refused_before_anything_is_read(change):
    config = cohort_config.CohortConfig(table="x.csv", **change)
    with pytest.raises(errors.UsageError, match=r"facts? in config field 'cohort.facts'"):
        config.validate()


def test_no_facts_are_asked_for_by_default():
    assert cohort_config.CohortConfig().fact_columns == ()
    config = cohort_config.CohortConfig(source="table", table="x.csv", facts=("ward", "scanner", ""))
    config.validate()
    assert config.fact_columns == ("ward", "scanner")
