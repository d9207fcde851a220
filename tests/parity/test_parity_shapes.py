"""Geometry from shapes and shards, against who defines them: open_clip's builder of OpenAI's models, and transformers' own writer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from relink_jax.encoders import convert, sources, towers, zoo  # noqa: E402
from relink_jax.store import checkpoints  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)


@pytest.mark.parametrize(("width", "layers", "patch", "side", "words", "context"), [(128, 2, 8, 32, 64, 11), (64, 1, 16, 48, 192, 7)])
def test_shapes_give_the_model_that_open_clip_builds_of_them(tmp_path, width, layers, patch, side, words, context):
    model = pytest.importorskip("open_clip").model
    torch.manual_seed(0)
    vision = {"image_size": side, "patch_size": patch, "width": width, "layers": layers, "head_width": 64}
    text = {"context_length": context, "vocab_size": 30, "width": words, "heads": words // 64, "layers": 2}
    state = model.CLIP(12, vision, text, quick_gelu=True).state_dict()
    state = {key: (1.5 * array if array.ndim else array).half().float() for key, array in state.items()}  # the builder rounds to float16
    torch.save(state, tmp_path / "ViT-T-8.pt")
    theirs = model.build_model_from_openai_state_dict(state, cast_dtype=torch.float32).float().eval()
    spec = zoo.of_source("mine", tmp_path)
    assert (spec.image.image_size, spec.image.stack.heads) == (theirs.visual.image_size[0], theirs.visual.transformer.resblocks[0].attn.num_heads)
    assert (spec.text.positions, spec.text.stack.heads) == (theirs.context_length, theirs.transformer.resblocks[0].attn.num_heads)
    converted, draw = convert.convert(spec), np.random.default_rng(0)
    pixels, ids = draw.standard_normal((3, side, side, 3)).astype(np.float32), draw.integers(0, 29, (3, context)).astype(np.int32)
    ids[:, -2] = 29
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        image = np.asarray(towers.image_features(spec, converted.params["image"], jnp.asarray(pixels))) @ converted.heads["image"]["kernel"]
        report = np.asarray(towers.text_features(spec, converted.params["text"], jnp.asarray(ids))) @ converted.heads["text"]["kernel"]
        np.testing.assert_allclose(image, theirs.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy(), atol=2e-5)
        np.testing.assert_allclose(report, theirs.encode_text(torch.from_numpy(ids)).numpy(), atol=2e-5)


def test_shards_that_transformers_wrote_are_one_checkpoint(tmp_path):
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 50, "max_position_embeddings": 16}
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config={**text, "eos_token_id": 49}, projection_dim=12))
    found = {}
    for name, size in (("whole", "1GB"), ("shards", "20KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        found[name] = convert.convert(zoo.from_directory(tmp_path / name))
    (index,) = sources.weights(tmp_path / "shards")
    assert index.name == "model.safetensors.index.json"
    (file,) = found["shards"].provenance["files"]
    assert len(file["parts"]) == len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    trees = [checkpoints.tree_digest({**one.params, "heads": one.heads}) for one in found.values()]
    assert trees[0] == trees[1]
