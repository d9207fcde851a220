"""Joining by id, and one sentence for every kind of bad input."""

import arrays
import jax.numpy as jnp
import numpy as np
import pytest

import relink_jax
from relink_jax import errors
from relink_jax.audit import inputs
from relink_jax.audit import run as audit_run
from relink_jax.runtime import mesh as meshes
from relink_jax.store import rows, shards

NINE_ROWS = 9 * 8 * 8  # bytes of a block of 8 columns


def changed(**changes):
    given = arrays.cohort()
    return {**given, **{name: change(given[name]) if callable(change) else change for name, change in changes.items()}}


def put(row, value):
    def edit(values):
        copy = np.array(values, dtype=object if isinstance(value, str) or value is None else float)
        copy[row] = value
        return copy

    return edit


def test_rows_are_joined_by_id_and_texts_deduplicated():
    given = arrays.cohort()
    prepared = inputs.prepare(**given)
    assert len(prepared.texts) < len(given["texts"])
    texts = given["texts"] / np.linalg.norm(given["texts"], axis=1, keepdims=True)
    np.testing.assert_allclose(prepared.texts[prepared.study_text], texts, atol=1e-7)
    assert (np.asarray(given["text_study"])[prepared.image_study] == given["image_study"]).all()
    np.testing.assert_allclose(np.linalg.norm(prepared.images, axis=1), 1, atol=1e-6)
    assert prepared.study_has_labels.sum() == 55
    assert set(np.unique(prepared.study_labels)) <= {1, 0, -1, -2}
    assert not set(prepared.patient_key) & set(given["patient"])


def test_any_hashable_ids_and_kept_pseudonyms():
    given = arrays.cohort()
    as_tuples = [("study", study) for study in given["text_study"]]
    other = inputs.prepare(**{**given, "text_study": as_tuples, "image_study": [("study", study) for study in given["image_study"]]})
    plain = inputs.prepare(**given, keep_ids=True, image_id=[f"i{row}" for row in range(80)])
    np.testing.assert_array_equal(other.image_study, plain.image_study)
    assert plain.study_key.tolist() == list(given["text_study"])
    assert plain.image_key[3] == "i3"
    assert plain.patient_key[plain.study_patient].tolist() == given["patient"]


def test_negative_zero_is_zero():
    texts = np.array([[1.0, 0.0], [1.0, -0.0], [0.0, 1.0]])
    prepared = inputs.prepare(images=texts, texts=texts, image_study=range(3), text_study=range(3), patient=range(3))
    assert prepared.study_text.tolist() == [0, 0, 1]


def test_has_labels_overrides_blank_rows():
    given = arrays.cohort()
    assert inputs.prepare(**given, has_labels=np.ones(60, bool)).study_has_labels.all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": put((7, 2), np.nan)}, "non-finite embedding in argument 'images': expected finite numbers, found 1 wrong row, first at row 7"),
        ({"texts": put((3, 0), np.inf)}, "non-finite embedding in argument 'texts': expected finite numbers, found 1 wrong row, first at row 3"),
        ({"texts": put(slice(4, 6), 0.0)}, "zero embedding in argument 'texts': expected rows of norm above 0, found 2 wrong rows, first at row 4"),
        (
            {"texts": lambda texts: np.where(np.arange(60)[:, None] < 5, np.array([[0], [1e200], [0], [0], [np.nan]])[np.arange(60) % 5], texts)},
            "non-finite embedding in argument 'texts': expected finite numbers, found 1 wrong row, first at row 4",
        ),
        ({"texts": lambda texts: texts[:, :5]}, "dims differ in argument 'texts': expected 8 columns, as in 'images', found 5"),
        ({"images": lambda images: images[0]}, "wrong shape in argument 'images': expected a non-empty [rows, dims] array, found [8]"),
        ({"images": [["a", "b"]]}, "wrong type in argument 'images': expected an array of real numbers, found <U1 values"),
        ({"images": lambda images: images.astype(str).astype(object)}, "wrong type in argument 'images': expected an array of real numbers, found ndarray"),
        ({"images": lambda images: images * 1j}, "wrong type in argument 'images': expected an array of real numbers, found complex128 values"),
        ({"images": lambda images: np.ma.masked_greater(images, 1)}, "wrong type in argument 'images': expected an array of real numbers, found masked values"),
        ({"texts": [[1.0], [1.0, 2.0]]}, "wrong type in argument 'texts': expected an array of real numbers, found list"),
        ({"texts": [[10**400] * 8] * 60}, "wrong type in argument 'texts': expected an array of real numbers, found list"),
        ({"images": None}, "wrong type in argument 'images': expected an array of real numbers, found NoneType"),
        ({"patient": None}, "wrong type in argument 'patient': expected a sequence of 60 ids, one per row of 'texts', found NoneType"),
        ({"image_study": None}, "wrong type in argument 'image_study': expected a sequence of 80 ids, one per row of 'images', found NoneType"),
        ({"text_study": "s" * 60}, "wrong type in argument 'text_study': expected a sequence of 60 ids, one per row of 'texts', found str"),
        ({"patient": set(range(60))}, "wrong type in argument 'patient': expected a sequence of 60 ids"),
        ({"patient": np.float64(3)}, "wrong type in argument 'patient': expected a sequence of 60 ids"),
        ({"patient": [([],)] * 60}, "missing id in argument 'patient': expected a hashable, non-empty id in every row, found 60 wrong rows, first at row 0"),
        ({"image_id": ["i"] * 80}, "repeated image id in argument 'image_id': expected each image once, found 79 wrong rows, first at row 1"),
        ({"labels": np.full((60, 14), "1.0")}, "wrong type in argument 'labels': expected numbers 1, 0, -1, and -2, NaN or None for blank, found <U3 values"),
        ({"labels": lambda labels: labels[:, :13]}, "wrong shape in argument 'labels': expected [60, 14], one row per row of 'texts' and one column per"),
        ({"has_labels": ["False"] * 60}, "wrong type in argument 'has_labels': expected 60 booleans, one per row of 'texts', found <U5 of shape [60]"),
        ({"image_study": lambda ids: ids[:-1]}, "length differs in argument 'image_study': expected 80 ids, one per row of 'images', found 79"),
        (
            {"text_study": put(9, None)},
            "missing id in argument 'text_study': expected a hashable, non-empty id in every row, found 1 wrong row, first at row 9",
        ),
        (
            {"image_study": put(2, "nowhere")},
            "image without report in argument 'image_study': expected every study id also in 'text_study', found 1 wrong row, first at row 2",
        ),
        ({"patient": ["one"] * 60}, "too few patients in argument 'patient': expected at least 2 different patients, found 1"),
        (
            {"labels": put((5, 1), 7)},
            "unknown label value in argument 'labels': expected 1, 0, -1, or -2, NaN or None for blank, found 1 wrong row, first at row 5",
        ),
        (
            {"labels": lambda labels: labels[:-1]},
            "wrong shape in argument 'labels': expected [60, 14], one row per row of 'texts' and one column per CheXpert observation, found [59, 14]",
        ),
        ({"image_patient": ["p1"] * 80}, "study under two patients in argument 'image_patient': expected the patient of the image's study, found"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    with pytest.raises(errors.DataError) as caught:
        inputs.prepare(**changed(**change))
    message = str(caught.value)
    assert message.startswith(sentence)
    assert "\n" not in message
    assert "nowhere" not in message


def test_repeated_studies_and_conflicting_patients_are_told_apart():
    given = arrays.cohort()
    given["text_study"] = [*given["text_study"][:-1], given["text_study"][0]]
    given["image_study"] = [given["text_study"][0]] * 80
    with pytest.raises(errors.DataError, match="study under two patients in argument 'patient'"):
        inputs.prepare(**{**given, "patient": [*given["patient"][:-1], "someone else"]})
    with pytest.raises(errors.DataError, match="repeated study id in argument 'text_study'"):
        inputs.prepare(**{**given, "patient": [*given["patient"][:-1], given["patient"][0]]})


def test_mismatched_id_types_are_named():
    given = arrays.cohort()
    with pytest.raises(errors.DataError, match="80 wrong rows, first at row 0 \\(int ids here, str ids in 'text_study'\\)"):
        inputs.prepare(**{**given, "image_study": np.arange(80)})


def test_unknown_options_get_a_suggestion():
    given = arrays.cohort()
    for option, meant in (("pool_size", "pool_sizes"), ("label", "labels"), ("bootstrap_replicate", "bootstrap_replicates"), ("keep_id", "keep_ids")):
        with pytest.raises(
            errors.UsageError, match=f"unknown option in relink_jax.audit: expected one of pool_sizes, ks, .* found '{option}'; did you mean '{meant}'"
        ):
            relink_jax.audit(**given, **{option: 1})
    with pytest.raises(errors.UsageError, match="found 'inputs'"):
        relink_jax.audit(**given, inputs=1)


@pytest.mark.parametrize("missing", ["images", "texts", "image_study", "text_study", "patient"])
def test_nothing_in_place_of_an_argument_is_one_sentence(missing):
    with pytest.raises(errors.DataError, match=f"wrong type in argument '{missing}': expected .*NoneType"):
        relink_jax.audit(**{**arrays.cohort(), missing: None})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ks", None),
        ("ks", 5),
        ("ks", []),
        ("ks", [True]),
        ("ks", ["1"]),
        ("ks", "15"),
        ("ks", [1, 1]),
        ("pool_sizes", [10.0]),
        ("top_k", "a"),
        ("seed", float("nan")),
        ("level", "0.95"),
        ("level", None),
        ("top_k", None),
        ("top_k", 2.0),
        ("mesh", 8),
        ("label_policy", None),
        ("same_patient", 3),
    ],
)
def test_options_of_another_kind_are_one_sentence(option, value):
    with pytest.raises(errors.UsageError, match=r"expected .* found "):
        relink_jax.audit(**arrays.cohort(), **{option: value})


def test_brain_floats_and_generators_are_read():
    given = arrays.cohort()
    half = {name: jnp.asarray(given[name], jnp.bfloat16) for name in ("images", "texts")}
    found = inputs.prepare(**{**given, **half, "image_study": (study for study in given["image_study"])})
    wanted = inputs.prepare(**{**given, **{name: np.asarray(array, np.float32) for name, array in half.items()}})
    np.testing.assert_array_equal(found.images, wanted.images)
    np.testing.assert_array_equal(found.image_study, wanted.image_study)


@pytest.mark.parametrize("scale", [1e20, 1e36, 1e-20])
def test_magnitudes_that_float32_scores_cannot_hold_are_refused(scale):
    given = arrays.cohort()
    large = {name: given[name] * scale for name in ("images", "texts")}
    with pytest.raises(errors.DataError, match=r"magnitudes in arguments 'images' and 'texts': expected .* or normalize=True, found \S+e[+-]\d+ and \S+$"):
        relink_jax.audit(**{**given, **large}, normalize=False)
    assert inputs.prepare(**{**given, **large}).images.shape == given["images"].shape


@pytest.mark.parametrize("name", ["normalize", "keep_ids"])
@pytest.mark.parametrize("value", ["no", 0, None, 1.0])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(errors.UsageError, match=f"value in argument '{name}': expected True or False, found {type(value).__name__}"):
        inputs.prepare(**arrays.cohort(), **{name: value})


def stored(tmp_path, given):
    """Returns `given` with its images and texts as float32 arrays, and with them as rows on disk."""
    arrays_of = {name: np.asarray(given[name], np.float32) for name in ("images", "texts")}
    for name, array in arrays_of.items():
        shards.write_all(tmp_path / name, {"embeddings": array}, 7, {})
    return {**given, **arrays_of}, {**given, **{name: shards.mapped(tmp_path / name, "embeddings") for name in arrays_of}}


@pytest.mark.parametrize("normalize", [True, False])
def test_rows_of_a_store_become_what_an_array_becomes(tmp_path, monkeypatch, normalize):
    given, on_disk = stored(tmp_path, arrays.cohort())
    wanted = inputs.prepare(**given, normalize=normalize)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", NINE_ROWS)
    found = inputs.prepare(**on_disk, normalize=normalize)
    assert len(wanted.texts) < 60
    assert found.describe() == wanted.describe()
    np.testing.assert_array_equal(found.study_text, wanted.study_text)
    draw = np.random.default_rng(0)
    for name in ("images", "texts"):
        array, source = getattr(wanted, name), getattr(found, name)
        assert isinstance(source, rows.Rows)
        for index in (slice(None), draw.integers(0, len(array), 50), 4):
            np.testing.assert_array_equal(source[index], array[index])


def test_counts_and_checks_of_rows_of_a_store_are_those_of_arrays(tmp_path, monkeypatch):
    options = {"ks": [1], "pool_sizes": [5], "bootstrap_replicates": 100, "mesh": meshes.make_mesh(2)}
    wanted, found = stored(tmp_path, arrays.cohort())
    expected = relink_jax.audit(**wanted, **options)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", NINE_ROWS)
    got = audit_run.audit_inputs(inputs.prepare(**found), directory=tmp_path / "parts", **options)
    assert (got.metrics, got.checks, got.data) == (expected.metrics, expected.checks, expected.data)
    assert got.checks["recheck"]["queries"] > 80
    assert got.counts.keys() == expected.counts.keys()
    for key, counted in got.counts.items():
        for integer in "Mgt":
            np.testing.assert_array_equal(counted[integer], expected.counts[key][integer])


@pytest.mark.parametrize(("value", "row"), [(np.nan, (51, 2)), (0.0, slice(51, 54))])
@pytest.mark.parametrize("side", ["images", "texts"])
def test_a_wrong_row_of_a_store_is_refused_when_it_is_read_in_the_words_for_an_array(tmp_path, monkeypatch, side, value, row):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", NINE_ROWS)
    wanted, found = stored(tmp_path, changed(**{side: put(row, value)}))
    with pytest.raises(errors.DataError) as expected:
        inputs.prepare(**wanted)
    if side == "images":
        prepared = inputs.prepare(**found)
        assert prepared.images[:51].shape == (51, 8)
        with pytest.raises(errors.DataError) as refused:
            prepared.images[np.array([3, 51])]
    else:
        with pytest.raises(errors.DataError) as refused:
            inputs.prepare(**found)
    assert str(refused.value) == str(expected.value)
    assert str(refused.value).endswith("found 1 wrong row, first at row 51" if value else "found 3 wrong rows, first at row 51")


def test_magnitudes_of_rows_of_a_store_are_judged_over_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", NINE_ROWS)
    large = changed(**{name: lambda given: given * np.where(np.arange(len(given)) == 40, 1e22, 1)[:, None] for name in ("images", "texts")})
    wanted, found = stored(tmp_path, large)
    for given in (wanted, found):
        with pytest.raises(errors.DataError, match=r"magnitudes in arguments 'images' and 'texts': .* found \S+e\+2\d and \S+e\+2\d$"):
            inputs.prepare(**given, normalize=False)
