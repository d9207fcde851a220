"""Conversion is strict in both directions and can be undone."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import published
import pytest
import tiny_clip

from relink_jax import errors
from relink_jax.encoders import convert, layouts, zoo
from relink_jax.store import checkpoints, digests

pytestmark = pytest.mark.usefixtures("quick_module", "traced_once")  # compared with tolerances, or counted


@pytest.fixture
def directory(tmp_path):
    return tiny_clip.write(tmp_path / "tiny")


def _changed(directory, change):
    tensors = tiny_clip.load(directory)
    change(tensors)
    tiny_clip.save(directory, tensors)
    return zoo.from_directory(directory)


def test_every_parameter_is_filled_with_the_right_tensor(directory):
    converted, tensors = convert.convert(zoo.from_directory(directory)), tiny_clip.load(directory)
    image = converted.params["image"]
    np.testing.assert_array_equal(
        image["encoder"]["block_1"]["self_attn"]["k_proj"]["kernel"], tensors["vision_model.encoder.layers.1.self_attn.k_proj.weight"].T
    )
    np.testing.assert_array_equal(image["patch_embedding"]["kernel"][1, 2, 0], tensors["vision_model.embeddings.patch_embedding.weight"][:, 0, 1, 2])
    np.testing.assert_array_equal(converted.heads["text"]["kernel"], tensors["text_projection.weight"].T)
    assert converted.logit_scale == 2.5
    sizes = checkpoints.flatten({**converted.params, "heads": converted.heads})
    assert converted.provenance["parameters"] == sum(array.size for array in sizes.values()) + 1
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in sizes.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_export_undoes_conversion_byte_for_byte(tmp_path, dtype):
    directory = tiny_clip.write(tmp_path / "tiny", dtype=dtype)
    converted = convert.convert(zoo.from_directory(directory))
    state = convert.export_state(converted.params, converted.heads, converted.logit_scale)
    source = tiny_clip.load(directory)
    assert state.keys() == source.keys()
    for key, array in source.items():
        assert state[key].astype(dtype).tobytes() == array.tobytes(), key
    convert.write_checkpoint(tmp_path / "again" / "model.safetensors", state, dtype)
    assert digests.arrays_digest(tiny_clip.load(tmp_path / "again")) == digests.arrays_digest(source)


def test_provenance_is_json_and_names_source_and_rules(directory):
    provenance = convert.convert(zoo.from_directory(directory)).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["source_sha256"] == digests.file_digest(directory / "model.safetensors")
    assert provenance["rules_sha256"] == layouts.HF_CLIP.digest()
    assert provenance["source_dtypes"] == ["F32"]


def test_position_ids_are_ignored_and_recorded(directory):
    key = "text_model.embeddings.position_ids"
    spec = _changed(directory, lambda tensors: tensors.update({key: np.arange(24)[None]}))
    assert convert.convert(spec).provenance["ignored"] == [key]


def test_an_unknown_key_is_refused(directory):
    spec = _changed(directory, lambda tensors: tensors.update({"vision_model.adapter.weight": np.zeros(3, np.float32)}))
    with pytest.raises(errors.DataError, match=r"unexpected keys .* found 1: vision_model.adapter.weight"):
        convert.convert(spec)


def test_a_missing_key_is_refused(directory):
    spec = _changed(directory, lambda tensors: tensors.pop("text_model.encoder.layers.1.mlp.fc2.bias"))
    with pytest.raises(errors.DataError, match=r"missing 1: text_model.encoder.layers.1.mlp.fc2.bias"):
        convert.convert(spec)


def test_a_layer_the_config_does_not_have_is_refused(directory):
    def add_layer(tensors):
        tensors.update({key.replace("layers.1", "layers.2"): array.copy() for key, array in list(tensors.items()) if "vision_model.encoder.layers.1" in key})

    with pytest.raises(errors.DataError, match=r"unexpected 16: .*layers.2"):
        convert.convert(_changed(directory, add_layer))


def test_a_wrong_shape_is_refused_in_the_source_layout(directory):
    key = "vision_model.encoder.layers.0.mlp.fc1.weight"
    spec = _changed(directory, lambda tensors: tensors.update({key: np.ascontiguousarray(tensors[key].T)}))
    with pytest.raises(errors.DataError, match=rf"{key}.*expected \[40, 24\], found \[24, 40\]"):
        convert.convert(spec)


def test_a_tensor_of_another_rank_is_refused(directory):
    key = "visual_projection.weight"
    with pytest.raises(errors.DataError, match=r"tensor rank .* expected 2 dimensions, found 1"):
        convert.convert(_changed(directory, lambda tensors: tensors.update({key: tensors[key].ravel()})))


def test_an_integer_tensor_is_refused(directory):
    key = "vision_model.post_layernorm.bias"
    with pytest.raises(errors.DataError, match=r"tensor dtype .* expected F16, BF16 or F32, found I64"):
        convert.convert(_changed(directory, lambda tensors: tensors.update({key: np.zeros(24, np.int64)})))


def test_weights_that_are_not_finite_are_refused(directory):
    def spoil(tensors):
        tensors["text_projection.weight"][0, 0] = np.nan

    with pytest.raises(errors.DataError, match=r"text_projection.weight.*expected finite numbers, found 1"):
        convert.convert(_changed(directory, spoil))


def test_an_unknown_layout_is_refused(directory):
    tiny_clip.save(directory, {"visual.proj": np.zeros((4, 4), np.float32)})
    with pytest.raises(
        errors.DataError, match=r"unknown layout in checkpoint: expected a published layout, nearest openai-clip .* found 1 keys without ln_final.weight"
    ):
        convert.convert(zoo.from_directory(directory))


def test_a_truncated_file_is_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.DataError, match=r"weights unreadable .* expected a whole safetensors file"):
        convert.convert(zoo.from_directory(directory))


def test_a_missing_file_is_refused(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(errors.DataError, match=r"weights missing in model directory 'tiny'"):
        convert.convert(zoo.from_directory(directory))


def test_a_wrong_digest_is_refused_before_the_file_is_opened(directory):
    (directory / "model.safetensors").write_bytes(b"not a checkpoint at all")
    spec = dataclasses.replace(zoo.from_directory(directory), sha256=("0" * 64,))
    with pytest.raises(errors.DataError, match=r"weights changed in tiny/model.safetensors: expected SHA-256 000000000000"):
        convert.convert(spec)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["preprocessor_config.json"], "file missing in model directory 'tiny': expected a JSON file preprocessor_config.json, found none"),
        (
            ["tokenizer.json", "vocab.json"],
            "tokenizer missing in model directory 'tiny': expected tokenizer.json, or vocab.json with merges.txt, found neither",
        ),
        (
            ["tokenizer.json", "merges.txt"],
            "tokenizer missing in model directory 'tiny': expected tokenizer.json, or vocab.json with merges.txt, found neither",
        ),
    ],
)
def test_what_embedding_needs_is_missed_at_once(directory, missing, message):
    spec = zoo.from_directory(directory)
    for name in missing:
        (directory / name).unlink()
    with pytest.raises(errors.DataError) as caught:
        convert.convert(spec)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("preprocessor_config.json", "{", "file unreadable in model directory 'tiny': expected a JSON file preprocessor_config.json, found JSONDecodeError"),
        ("preprocessor_config.json", "[1]", "file unreadable in model directory 'tiny': expected a JSON object in preprocessor_config.json, found list"),
        ("preprocessor_config.json", "[" * 100_000, "file unreadable in model directory 'tiny': expected a JSON file preprocessor_config.json, found Rec"),
        ("config.json", "\x00", "file unreadable in model directory 'tiny': expected a JSON file config.json, found JSONDecodeError"),
        ("tokenizer.json", "{", "tokenizer unreadable in model directory 'tiny': expected a CLIP tokenizer"),
    ],
)
def test_what_embedding_needs_is_read_at_once(directory, name, content, message):
    spec = zoo.from_directory(directory)
    (directory / name).write_text(content)
    with pytest.raises(errors.DataError) as caught:
        convert.convert(spec)
    assert str(caught.value).startswith(message)


def test_inputs_of_other_towers_are_refused(directory):
    spec = zoo.from_directory(directory)
    size = spec.text.vocab_size

    def refuses(changed, message):
        with pytest.raises(errors.DataError) as caught:
            convert.convert(changed)
        assert str(caught.value) == message

    small = dataclasses.replace(spec, text=dataclasses.replace(spec.text, vocab_size=size - 1))
    refuses(small, f"token id in tokenizer of 'tiny': expected below the vocabulary size {size - 1}, found {size - 1}")
    ends = dataclasses.replace(spec, text=dataclasses.replace(spec.text, eos_token_id=size - 2))
    refuses(ends, f"end-of-text token in tokenizer of 'tiny': expected id {size - 2}, from eos_token_id in config.json, found id {size - 1}")
    convert.check_inputs(dataclasses.replace(spec, text=dataclasses.replace(spec.text, eos_token_id=2)))
    path = directory / "preprocessor_config.json"
    path.write_text(path.read_text().replace('{"height": 32, "width": 32}', '{"height": 30, "width": 32}'))
    refuses(spec, "preprocessed size in preprocessor_config.json: expected 32 x 32 pixels, which the tower takes, found 30 x 32")


def test_inputs_of_a_model_with_a_recipe_and_a_bert_are_checked(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "report"]))
    case = published.CASES["biomedclip"]
    spec = dataclasses.replace(case.spec(tmp_path), recipe="clip", text_rule="biomedclip", image=dataclasses.replace(case.image, image_size=224))
    convert.check_inputs(spec)

    def refuses(message, **changed):
        with pytest.raises(errors.DataError) as caught:
            convert.check_inputs(dataclasses.replace(spec, **changed))
        assert str(caught.value) == message

    refuses("preprocessed size in preprocessing 'clip': expected 32 x 32 pixels, which the tower takes, found 224 x 224", image=case.image)
    small, other = dataclasses.replace(spec.text, vocab_size=6), dataclasses.replace(spec.text, pad_id=1)
    refuses("token id in tokenizer of 'tiny': expected below the vocabulary size 6, found 6", text=small)
    refuses("padding token in tokenizer of 'tiny': expected id 1, which the tower masks, found id 0", text=other)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(errors.DataError, match=r"tokenizer missing"):
        convert.check_inputs(spec)


def test_a_weight_file_that_is_something_else_is_one_sentence(directory, monkeypatch):
    spec, path = zoo.from_directory(directory), directory / convert.WEIGHTS
    whole = path.read_bytes()
    for cut in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.DataError, match=r"weights unreadable in file 'model.safetensors': expected a whole safetensors file"):
            convert.convert(spec)
    path.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    with pytest.raises(errors.DataError, match=r"weights unreadable"):
        convert.convert(spec)

    def denied(_):
        raise PermissionError

    monkeypatch.setattr(digests, "file_digest", denied)
    with pytest.raises(errors.DataError, match=r"weights unreadable in file 'model.safetensors': expected a readable file, found PermissionError"):
        convert.convert(spec)
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.DataError, match=r"weights missing in model directory 'tiny'"):
        convert.convert(spec)


def test_a_wrappers_prefix_is_undone_and_any_other_refused(directory):
    tensors, plain = tiny_clip.load(directory), convert.convert(zoo.from_directory(directory))
    tiny_clip.save(directory, {"module." + key: array for key, array in tensors.items()})
    wrapped = convert.convert(zoo.from_directory(directory))
    assert checkpoints.tree_digest(wrapped.params) == checkpoints.tree_digest(plain.params)
    tiny_clip.save(directory, {"model." + key: array for key, array in tensors.items()})
    with pytest.raises(errors.DataError, match=r"unknown layout in checkpoint"):
        convert.convert(zoo.from_directory(directory))
    for prefix in ("module.", "model."):
        tiny_clip.save(directory, tensors | {prefix + key: array.copy() for key, array in tensors.items()})
        with pytest.raises(errors.DataError, match=rf"unexpected keys .* found {len(tensors)}: {prefix}logit_scale"):
            convert.convert(zoo.from_directory(directory))


def test_half_precision_becomes_float32_exactly(directory):
    key = "visual_projection.weight"
    spec = _changed(directory, lambda tensors: tensors.update({key: tensors[key].astype(jnp.bfloat16)}))
    converted = convert.convert(spec)
    np.testing.assert_array_equal(converted.heads["image"]["kernel"], tiny_clip.load(directory)[key].astype(np.float32).T)
    assert converted.provenance["source_dtypes"] == ["BF16", "F32"]


@pytest.mark.parametrize(("dtype", "name"), [("float64", "F64"), ("int8", "I8")])
def test_other_dtypes_are_refused_by_name(directory, dtype, name):
    key = "visual_projection.weight"
    spec = _changed(directory, lambda tensors: tensors.update({key: tensors[key].astype(jnp.dtype(dtype))}))
    with pytest.raises(errors.DataError, match=rf"tensor dtype in checkpoint key '{key}': expected F16, BF16 or F32, found {name}"):
        convert.convert(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": {**tiny_clip.VISION, "num_channels": 1}}, "expected 3, found 1"),
        ({"text_config": {"vocab_size": True}}, "text_config.vocab_size"),
        ({"text_config": {"max_position_embeddings": 1}}, "expected a whole number from 2 to"),
        ({"projection_dim": 0}, "expected a whole number from 1 to"),
        ({"vision_config": {**tiny_clip.VISION, "image_size": 0}}, "expected a whole number from 1 to"),
        ({"vision_config": {**tiny_clip.VISION, "hidden_size": 10**30}}, "expected a whole number from 1 to"),
        ({"text_config_dict": [1]}, "expected an object 'text_config_dict', found list"),
        ({"model_type": "bert"}, "expected 'clip' or 'siglip', found 'bert'"),
        ({"vision_config": None}, "section missing"),
        ({"vision_config": {**tiny_clip.VISION, "patch_size": 5}}, "expected a divisor of 32, found 5"),
        ({"vision_config": {**tiny_clip.VISION, "hidden_size": 25}}, "width divisible by the heads"),
        ({"text_config": {"hidden_act": None}}, "text_config.hidden_act"),
        ({"text_config": {"layer_norm_eps": 0}}, "text_config.layer_norm_eps"),
        ({"text_config": {"vocab_size": "many"}}, "text_config.vocab_size"),
        ({"text_config": {"vocab_size": 7}, "text_config_dict": {"vocab_size": 8}}, "different vocab_size"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(directory, change, message):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(errors.DataError, match=message):
        zoo.from_directory(directory)


def test_fields_left_out_of_a_config_have_the_formats_defaults(directory):
    (directory / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {}, "text_config": {}}))
    spec = zoo.from_directory(directory)
    assert (spec.image.stack.width, spec.image.positions, spec.text.vocab_size, spec.text.eos_token_id, spec.dim) == (768, 50, 49408, 49407, 512)
    shapes = convert.target_shapes(spec)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 151_277_313
