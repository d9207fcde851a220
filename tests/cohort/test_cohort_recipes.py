"""Recipes: what each choice keeps, what the digest covers, and names that help."""

import dataclasses
import json

import pytest
from test_table import base_rows, read, without, written

from relink_jax import errors
from relink_jax.cohort import recipes, reports, schema
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.reports import mask_placeholders, normalise
from relink_jax.cohort_config import DEDUPLICATE, IMAGES, SPLITTING, TEXT_FIELDS, VIEWS


def test_the_default_is_the_preset_of_frontal_images():
    assert Recipe() == recipes.named("frontal_image")
    config = (TEXT_FIELDS, IMAGES, DEDUPLICATE, SPLITTING, VIEWS)  # which imports no room
    assert config == (reports.TEXT_FIELDS, recipes.IMAGES, recipes.DEDUPLICATE, recipes.SPLIT, tuple(filter(None, schema.VIEWS)))


@pytest.mark.parametrize("name", sorted(recipes.PRESETS))
def test_every_preset_is_json_and_says_what_it_follows(name):
    recipe = recipes.named(name)
    assert Recipe(**{field: tuple(v) if isinstance(v, list) else v for field, v in json.loads(json.dumps(recipe.record())).items()}) == recipe
    told = recipes.describe(recipe)
    assert recipes.PRESETS[name].source in told
    assert recipes.PRESETS[name].differs in told
    assert recipe.digest()[:12] in told
    assert "follows" not in recipes.describe(dataclasses.replace(recipe, min_words=7))


CHANGES = {
    "views": ("PA",), "text_field": "findings", "min_words": 3, "max_words": 9, "images": "first", "deduplicate": "text", "split": "none",
    "shares": (0.5, 0.25, 0.25), "split_seed": "other", "mask_placeholders": True,
}  # fmt: skip


def test_the_digest_covers_every_choice_and_nothing_else():
    base = Recipe(split="hash")
    changed = {field: dataclasses.replace(base, **{field: value}).digest() for field, value in CHANGES.items()}
    assert set(CHANGES) | {"name"} == {field.name for field in dataclasses.fields(Recipe)}
    assert len({base.digest(), *changed.values()}) == 1 + len(CHANGES)
    assert dataclasses.replace(base, name="mine", views=base.views[::-1]).digest() == base.digest()
    assert Recipe(split_seed="other", shares=(0.5, 0.25, 0.25)).digest() == Recipe().digest()  # they matter to a hash split only


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text_field": "finding"}, "text_field in the recipe: .* did you mean 'findings'"),
        ({"views": ("LATERALL",)}, "did you mean 'LATERAL'"),
        ({"images": "one"}, "images in the recipe: expected one of all, first, found 'one'"),
        ({"deduplicate": "texts"}, "did you mean 'text'"),
        ({"split": "hashed"}, "did you mean 'hash'"),
        ({"shares": (0.5, 0.5, 0.5)}, "that make 1 together, found 0.5, 0.5, 0.5"),
        ({"shares": (1.5, -0.5, 0.0)}, "numbers in .0, 1."),
        ({"views": ()}, "at least one view"),
        ({"min_words": -1}, "0 <= min_words"),
        ({"min_words": 5, "max_words": 4}, "min_words <= max_words"),
    ],
)
def test_choices_that_there_are_not(changes, match):
    with pytest.raises(errors.UsageError, match=match):
        Recipe(**changes)


def test_an_unknown_preset_suggests():
    with pytest.raises(errors.UsageError, match="did you mean 'frontal_study'"):
        recipes.named("frontal_studies")


def long_and_short():
    """The rows of `test_table` with texts of 4, 2, 2 and 4 words in studies s1 to s4."""
    return without(base_rows(), "impression", findings=lambda row: row["findings"] + (" Normal." if "clear" in row["findings"] else ""))


ALL = ("PA", "AP", "LATERAL")


@pytest.mark.parametrize(
    ("changes", "images", "counted"),
    [
        ({}, "12345", {"empty_text": 0}),
        ({"min_words": 3}, "125", {"too_few_words": 2}),
        ({"max_words": 3}, "34", {"too_many_words": 3}),
        ({"min_words": 2, "max_words": 4}, "12345", {"too_few_words": 0, "too_many_words": 0}),
        ({"images": "first"}, "1345", {"further_images": 1}),
        ({"images": "first", "views": ("LATERAL", "PA")}, "145", {"dropped_view": 1, "further_images": 1}),
        ({"deduplicate": "text", "split": "none"}, "1234", {"studies_of_a_repeated_text": 1}),
        ({"deduplicate": "text"}, "12345", {"studies_of_a_repeated_text": 0}),  # s1 is train, s4 is test
        ({"deduplicate": "text", "split": "none", "images": "first", "max_words": 4}, "134", {"further_images": 1, "studies_of_a_repeated_text": 1}),
    ],
)
def test_what_is_kept_and_counted(tmp_path, changes, images, counted):
    cohort = read(written(tmp_path, long_and_short()), **{"views": ALL} | changes)
    assert cohort.image_path.tolist() == [f"im/i{number}.png" for number in images]
    assert counted.items() <= cohort.counts.items()
    assert cohort.recipe["name"] == "frontal_image"
    if changes.get("split") == "none":
        assert set(cohort.study_split) == {"test"}


def test_own_splits_need_no_split_column_that_holds(tmp_path):
    rows = base_rows()
    rows[3]["split"], rows[1]["split"] = "train", "val"
    path = written(tmp_path, rows)
    with pytest.raises(errors.DataError, match=r"unknown value .*column 'split'"):
        read(path, views=ALL)
    assert set(read(path, views=ALL, split="hash", shares=(0, 1, 0)).study_split) == {"validate"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Compared with ___, no change.", "Compared with , no change."),
        ("XXXX-year-old with XXXX.", "-year-old with ."),
        ("Study of 3/14/2019 and 2019-03-14 and March 14, 2019 and 14 Mar 2019.", "Study of and and and ."),
        ("ACCESSION NUMBER: 12345 left\nLungs are clear.", "Lungs are clear."),
        ("WET READ: ABC FRI ___ 3:45 PM\n Clear.", "Clear."),
        ("WET READ VERSION #1 ___ 10:32 AM\nClear at 9:15.", "Clear at 9:15."),
        ("In March, marked 2 x 3 cm opacity, C3-4, 1.5 cm, 5/6 ribs, __ XXX.", "In March, marked 2 x 3 cm opacity, C3-4, 1.5 cm, 5/6 ribs, __ XXX."),
    ],
)
def test_masking_takes_out_what_no_image_shows(text, masked):
    assert normalise(mask_placeholders(text)) == masked


def test_masked_texts_are_joined_and_counted_as_masked(tmp_path):
    rows = base_rows()
    rows[2]["findings"], rows[3]["findings"] = "___", "Mild edema since ___."
    cohort = read(written(tmp_path, rows), views=ALL, mask_placeholders=True)
    assert cohort.counts["empty_text"] == 1
    assert cohort.text == ["Lungs are clear. Normal.", "Mild edema since ."]


def test_the_labelled_text_is_a_text_field(tmp_path):
    rows = without(base_rows(), labelled_text=lambda row: row["impression"] or row["findings"])
    assert read(written(tmp_path, rows), text_field="labelled_text").text == ["Normal.", "Mild edema."]
    with pytest.raises(errors.DataError, match=r"text_field in pairs table 'pairs.csv': expected a column 'labelled_text', found only findings, impression"):
        read(written(tmp_path, base_rows()), text_field="labelled_text")
