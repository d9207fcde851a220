"""Every published layout: each tensor lands where the reference says, and nothing is missed, doubled or guessed."""

import dataclasses
import functools

import numpy as np
import published
import pytest
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.encoders import convert, layouts
from relink_jax.store import checkpoints

NAMES = list(published.CASES)


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)
    monkeypatch.setattr(convert, "target_shapes", functools.cache(convert.target_shapes))


def converted(directory, name, change=lambda file, state: None, seed=0):
    case = published.CASES[name]
    states = case.states(seed)
    for file, state in states.items():
        change(file, state)
        safetensors_numpy.save_file({key: np.array(array, order="C") for key, array in state.items()}, str(directory / f"{file}.safetensors"))
    return convert.convert(dataclasses.replace(case.spec("."), directory=directory)), states


def tree_of(result):
    tree = {**result.params, "heads": result.heads, "logit_scale": result.logit_scale}
    return tree if result.logit_bias is None else {**tree, "logit_bias": result.logit_bias}


def refused(directory, name, change):
    with pytest.raises(errors.DataError) as caught:
        converted(directory, name, change)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_lands_where_the_reference_says(tmp_path, name):
    case = published.CASES[name]
    result, states = converted(tmp_path, name)
    flat, expected = checkpoints.flatten(tree_of(result)), case.expected(states)
    if "logit_scale" not in expected:
        assert result.provenance["supplied"] == {"logit_scale": 0.0}
        expected["logit_scale"] = np.float32(0)
    assert flat.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(np.asarray(flat[path], np.float32), array, err_msg=path)
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in checkpoints.flatten(result.params).values())
    assert sorted(result.provenance["ignored"]) == case.ignored()
    assert tuple(one["layout"] for one in result.provenance["files"]) == case.names


@pytest.mark.parametrize("name", NAMES)
def test_an_export_gives_every_tensor_back(tmp_path, name):
    result, states = converted(tmp_path, name)
    into = [layouts.named(one["layout"]) for one in result.provenance["files"]]
    exported = convert.export_states(tree_of(result), into)
    for state, kept, source in zip(exported, result.left_out, states.values(), strict=True):
        whole = {**state, **kept}
        assert whole.keys() == source.keys()
        for key, array in source.items():
            assert whole[key].shape == array.shape, key
            assert whole[key].dtype == array.dtype, key
            np.testing.assert_array_equal(whole[key], array, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_one_key_less_or_more_is_refused(tmp_path, name):
    case = published.CASES[name]
    file, rows = list(case.files.items())[-1]
    needed = [
        key for key, _, _, _, how in published.rows_of(rows) if how != "-" and key not in frozenset().union(*(one.fingerprint for one in layouts.LAYOUTS))
    ]
    gone = needed[len(needed) // 2]
    assert f"missing 1: {gone}" in refused(tmp_path, name, lambda found, state: state.pop(gone) if found == file else None)
    message = refused(tmp_path, name, lambda found, state: state.update({"adapter.weight": np.zeros(3, np.float32)}) if found == file else None)
    assert "found 1: adapter.weight" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_shape_is_told_in_the_files_own_terms(tmp_path, name):
    case = published.CASES[name]
    rows = [row for row in published.rows_of(next(iter(case.files.values()))) if row[4] in "tqc1" and len(set(row[1])) > 1]
    key, shape, *_ = rows[len(rows) // 2]
    turned = shape[::-1]
    message = refused(tmp_path, name, lambda _, state: state.update({key: np.zeros(turned, np.float32)}) if key in state else None)
    assert f"checkpoint key {key!r}" in message
    assert str(list(turned)) in message


def test_layouts_are_told_apart_by_their_keys_alone():
    for name, case in published.CASES.items():
        for wanted, state in zip(case.names, case.states().values(), strict=True):
            assert layouts.detect(None, list(state)).name == wanted, name
    keys = list(published.flax_names(published.CASES["hf-clip"].states()["model"]))
    assert layouts.detect("clip", keys).name == "hf-flax-clip"


def test_another_model_type_than_the_keys_say_is_refused():
    keys = list(published.CASES["hf-clip"].states()["model"])
    with pytest.raises(errors.DataError, match=r"model type in config.json beside checkpoint: expected 'clip', as its keys say, found 'siglip'"):
        layouts.detect("siglip", keys)


def test_an_unknown_layout_names_the_nearest_and_what_does_not_fit():
    keys = [key.replace("visual.proj", "visual.projection") for key in published.CASES["openai"].states()["model"]]
    with pytest.raises(errors.DataError, match=r"nearest openai-clip \(98% of the keys fit\), .*not fitting openai-clip 1: visual.projection"):
        layouts.detect(None, keys)
    with pytest.raises(errors.DataError, match=r"found 1 keys without ln_final.weight, text_projection, visual.conv1.weight, visual.proj"):
        layouts.detect(None, ["visual.class_embedding"])


def test_a_square_matrix_is_transposed_where_it_must_be():
    """[out, in] and [in, out] of one size look alike: only the layout says which is meant (OpenAI's text_projection is [in, out])."""
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    for layout, key, turned in ((layouts.HF_CLIP, "text_projection.weight", True), (layouts.OPENAI_CLIP, "text_projection", False)):
        rule, paths = layout.assign([key])[0][key]
        assert paths == ("heads/text/kernel",)
        np.testing.assert_array_equal(rule.convert(key, square)[0], square.T if turned else square)


def test_thirds_are_query_key_value():
    packed = np.arange(18, dtype=np.float32).reshape(6, 3)
    key = "visual.trunk.blocks.1.attn.qkv.weight"
    rule, paths = layouts.OPEN_CLIP_BERT.assign([key])[0][key]
    assert [path.split("/")[-2] for path in paths] == ["q_proj", "k_proj", "v_proj"]
    for index, part in enumerate(rule.convert(key, packed)):
        np.testing.assert_array_equal(part, packed[2 * index : 2 * index + 2].T)
    np.testing.assert_array_equal(rule.export(rule.convert(key, packed)), packed)


def test_no_table_names_a_key_or_a_place_twice():
    for layout in layouts.LAYOUTS:
        assert len({rule.source for rule in layout.rules}) == len(layout.rules), layout.name
        assert len({rule.target for rule in layout.rules}) == len(layout.rules), layout.name
        assert not {rule.source for rule in layout.rules} & {entry.source for entry in layout.ignored}, layout.name
        assert all(len(entry.reason) > 20 for entry in layout.ignored)
    assert len({layout.digest() for layout in layouts.LAYOUTS}) == len(layouts.LAYOUTS)


def test_a_swapped_row_is_seen(tmp_path, monkeypatch):
    """The independent table catches a table that puts two arrays of one shape in each other's place."""
    swapped = {"norm1": "norm2", "norm2": "norm1"}

    def swap(rule):
        return dataclasses.replace(rule, target="/".join(swapped.get(part, part) for part in rule.target.split("/")))

    wrong = dataclasses.replace(layouts.MEDCLIP_SWIN, rules=tuple(map(swap, layouts.MEDCLIP_SWIN.rules)))
    monkeypatch.setattr(layouts, "LAYOUTS", tuple(wrong if layout is layouts.MEDCLIP_SWIN else layout for layout in layouts.LAYOUTS))
    with pytest.raises(AssertionError, match="norm1"):
        test_every_tensor_lands_where_the_reference_says(tmp_path, "medclip-swin")
