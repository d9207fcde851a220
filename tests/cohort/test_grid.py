"""The grid of counts against counting by hand and against assembling, the ceiling against drawing pools, and the export."""

import collections
import csv
import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many_rows import many
from test_cohort_schema import small

from relink_jax import errors
from relink_jax.cohort import assemble, columns, duplicates, grid, recipes, schema
from relink_jax.store import tables

EXTRA = (recipes.Recipe("no_split", split="none"), recipes.Recipe("masked", views=schema.VIEWS, mask_placeholders=True, max_words=12))


@pytest.fixture(scope="module")
def parts():
    return [many(150, words=8), many(90, site="CheXpert-Plus", seed=1, words=4)]


@pytest.fixture(scope="module")
def counted(parts):
    return grid.report(parts, (*map(recipes.named, recipes.PRESETS), *EXTRA))


def test_every_cell_is_what_assembling_gives(parts, counted, monkeypatch):
    monkeypatch.setattr(columns, "is_file", lambda path: True)
    rows = counted.cells()
    assert len(rows) == 3 * (len(recipes.PRESETS) + len(EXTRA)) * 5 * 3
    for row in rows[:: len(rows) // 60]:
        recipe = next(one for one in counted.recipes.values() if one.name == row["recipe"])
        recipe = dataclasses.replace(recipe, text_field=row["text_field"], min_words=row["min_words"])
        assert row["recipe_sha256"] == recipe.digest()
        chosen = [part for part in parts if part.name == row["part"]] or parts
        cohorts = [assemble.assemble([part], recipe, key=bytes(32), name="x") for part in chosen]
        for split in ("", *schema.SPLITS):
            suffix = f"_{split}" if split else ""
            picked = [cohort.select(split or None) for cohort in cohorts]
            assert row[f"pairs{suffix}"] == sum(len(one.images) for one in picked)
            assert row[f"studies{suffix}"] == sum(len(one.studies) for one in picked)
            patients = [len(np.unique(cohort.study_patient[one.studies])) for cohort, one in zip(cohorts, picked, strict=True)]
            assert row[f"patients{suffix}"] == sum(patients)
        if len(cohorts) == 1 and row["pairs_test"]:
            test = cohorts[0].select("test")
            assert row["test_ceiling"] == pytest.approx(duplicates.ceiling(cohorts[0], test, same_patient="negative"))


def test_the_text_fits_and_names_what_comes_closest(parts, counted):
    lines = counted.text().splitlines()
    assert max(map(len, lines)) <= 160
    assert sum(line.startswith("MIMIC-CXR: ") for line in lines) < len(counted.recipes)  # recipes that count alike stand together
    assert "not known here" in lines[-1]
    pairs = sorted((abs(row["pairs"] - 406_241), row["pairs"]) for row in counted.cells() if row["part"] == grid.ALL_PARTS)
    assert any(f"406,241 pairs of both: closest is {pairs[0][1]:,} (" in line for line in lines)
    assert all("MIMIC-CXR" in line or "nothing to compare with" in line for line in grid.report(parts[:1]).closest()[1:-1])


def test_the_closest_row_is_the_closest(parts, counted):
    test_pairs = {row.of("pairs", "test") for row in counted.rows if row.site == "MIMIC-CXR"}
    assert len(test_pairs) > 3
    assert f"closest is {max(test_pairs)} " in " ".join(counted.closest())


def test_text_fields_that_a_part_lacks_are_left_out(parts):
    lacking = dataclasses.replace(parts[1], columns={name: cells for name, cells in parts[1].columns.items() if name != "labelled_text"})
    rows = grid.report([parts[0], lacking], EXTRA[:1]).rows
    fields = collections.Counter((row.part, row.text_field) for row in rows)
    assert fields["MIMIC-CXR", "labelled_text"] == 3
    assert fields["CheXpert-Plus", "labelled_text"] == fields[grid.ALL_PARTS, "labelled_text"] == 0
    assert fields[grid.ALL_PARTS, "impression"] == 3


def test_rows_that_break_a_rule_are_refused(parts):
    spoilt = dataclasses.replace(parts[0], columns=parts[0].columns | {"split": ["val", *parts[0].columns["split"][1:]]})
    with pytest.raises(errors.DataError, match="unknown value in MIMIC-CXR, data row 1, column 'split'"):
        grid.report([spoilt])


def cohort_with(texts, patients):
    """A cohort with one study of one image per entry."""
    n = len(texts)
    kinds, people = sorted(set(texts)), sorted(set(patients))
    names, index = np.array([f"k{number:03d}" for number in range(n)]), np.arange(n, dtype=np.int32)
    return small(
        image_key=names, image_study=index, image_source=index * 0, image_path=names.astype(object), image_view=np.full(n, "PA", object),
        image_prior=index * 0 - 1, study_key=names, study_patient=np.array([people.index(p) for p in patients], np.int32),
        study_split=np.full(n, "test", object), study_site=np.full(n, "", object), study_exposure=np.full(n, "unknown", object),
        study_origin=np.full(n, "", object), study_text=np.array([kinds.index(t) for t in texts], np.int32),
        study_labels=np.full((n, 14), schema.BLANK, np.int8), study_has_labels=np.zeros(n, bool), patient_key=names[: len(people)],
        text=list(map(str, kinds)), text_key=names[: len(kinds)],
    )  # fmt: skip


def by_drawing_every_pool(texts, patients, pool, same_patient):
    """Mean over queries and all pools of 1 / (studies with the query's text in the pool)."""
    scores = []
    for query, text in enumerate(texts):
        others = [s for s in range(len(texts)) if s != query and (same_patient == "negative" or patients[s] != patients[query])]
        pools = list(itertools.combinations(others, (pool or len(others) + 1) - 1))
        scores.append(sum(1 / (1 + sum(texts[s] == text for s in drawn)) for drawn in pools) / len(pools))
    return sum(scores) / len(scores)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=7), st.sampled_from(duplicates.SAME_PATIENT), st.data())
def test_the_ceiling_is_the_mean_over_all_pools(studies, same_patient, data):
    texts, patients = zip(*studies, strict=True)
    cohort = cohort_with(texts, patients)
    fewest = min(1 + sum(same_patient == "negative" or p != q for p in patients) - (same_patient == "negative") for q in patients)
    pool = data.draw(st.one_of(st.none(), st.integers(1, fewest)))
    found = duplicates.ceiling(cohort, cohort.select(), pool_size=pool, same_patient=same_patient)
    assert found == pytest.approx(by_drawing_every_pool(texts, patients, pool, same_patient), rel=1e-12)
    with pytest.raises(errors.UsageError, match="pool size in ceiling"):
        duplicates.ceiling(cohort, cohort.select(), pool_size=fewest + 1, same_patient=same_patient)


@pytest.mark.parametrize(("n", "distinct", "rounded"), [(3927, 3129, 0.797), (3425, 2624, 0.766), (3921, 1780, 0.454)])
def test_the_ceilings_of_the_public_open_i_reports(n, distinct, rounded):
    """Reports, and distinct ones, counted in Open-I: one query per study makes the ceiling distinct / n, however they are grouped."""
    draw = np.random.default_rng(n)
    texts = np.concatenate([np.arange(distinct), draw.integers(0, distinct, n - distinct)]).tolist()
    cohort = cohort_with(texts, list(range(n)))
    assert duplicates.ceiling(cohort, cohort.select()) == pytest.approx(distinct / n, rel=1e-12)
    assert round(distinct / n, 3) == rounded
    alike = collections.Counter(texts)
    count = sum(size for size in alike.values() if size > 1)
    assert duplicates.repeated(cohort, cohort.select()) == (count, count / n)
    hypergeometric = np.mean([sum(_law(n, alike[text], 100, x) / (1 + x) for x in range(min(100, alike[text]))) for text in texts[:: n // 20]])
    sample = [duplicates._hit(n, alike[text], 100) for text in texts[:: n // 20]]
    assert np.mean(sample) == pytest.approx(hypergeometric, rel=1e-9)


def _law(candidates, alike, pool, x):
    return math.comb(alike - 1, x) * math.comb(candidates - alike, pool - 1 - x) / math.comb(candidates - 1, pool - 1)


def test_several_images_of_a_study_weigh_as_queries():
    cohort = small()  # images 0, 1 of study 0; texts 0, 1, 0; patients 0, 0, 1
    assert duplicates.ceiling(cohort, cohort.select()) == pytest.approx((0.5 + 0.5 + 1 + 0.5) / 4)
    assert duplicates.repeated(cohort, cohort.select()) == (2, 2 / 3)
    with pytest.raises(errors.DataError, match="selection in ceiling: expected at least one image"):
        duplicates.ceiling(cohort, cohort.select("validate"))


def exported(path, rows):
    tables.write_csv(path, rows)
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(
        st.one_of(st.text(st.characters(codec="utf-8"), max_size=6), st.sampled_from(["=1+1", "-1", "+x", "@a", "\t=1", "-1e3", "+.5", "-inf", "\r-"]))
    )
)
def test_no_exported_cell_runs_as_a_formula(tmp_path_factory, cells):
    found = [row["text"] for row in exported(tmp_path_factory.getbasetemp() / "cells.csv", [{"text": cell} for cell in ["x", *cells]])]
    if all(cells):  # a row of one empty cell reads as none
        for cell, back in zip(cells, found[1:], strict=True):
            assert back in (cell, f"'{cell}")
            assert back[:1] not in ("=", "@", "\t", "\r", "\n")
            assert back[:1] not in ("+", "-") or math.isfinite(float(back))


def test_the_grid_is_exported_with_numbers_as_numbers(tmp_path, counted):
    rows = [{"share": -0.5, "none": None, "=name": "=cmd", "count": 7}]
    assert exported(tmp_path / "x.csv", rows) == [{"share": "-0.5", "none": "", "'=name": "'=cmd", "count": "7"}]
    found = exported(tmp_path / "grid.csv", counted.cells())
    assert [int(row["pairs"]) for row in found] == [row["pairs"] for row in counted.cells()]
    assert (tmp_path / "grid.csv").stat().st_mode & 0o777 == 0o600
