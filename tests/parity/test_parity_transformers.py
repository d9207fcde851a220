"""Transformer towers in float64 against transformers' own CLIP, SigLIP, ViT and BERT, block by block and end to end.

Parameters are renamed here, from the names that the library saves, so that neither the key tables nor the specs' readers take part.
"""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from relink_jax import heads
from relink_jax.encoders import bert, specs, text, vit

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from oracles import core  # noqa: E402

SIZES = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 3}
PICTURES = {"image_size": 16, "patch_size": 4}
VOCABULARY, LENGTH, END = 40, 12, 39
IMAGE_PIXELS = np.random.default_rng(1).standard_normal((2, 16, 16, 3))
IDS = np.random.default_rng(2).integers(3, END, (3, LENGTH))
NAMES = (
    (r"^(vision|text)_model\.", ""),
    (r"^embeddings\.(?:class_embedding|cls_token)$", "class_embedding"),
    (r"^embeddings\.patch_embeddings?\.(?:projection\.)?", "patch_embedding."),
    (r"^embeddings\.(word|token|position)_embeddings?(?:\.weight)?$", r"\1_embedding"),
    (r"^embeddings\.token_type_embeddings\.weight$", "type_embedding"),
    (r"^embeddings\.LayerNorm", "embedding_norm"),
    (r"^pre_layrnorm", "pre_layernorm"),
    (r"^layernorm", "post_layernorm"),
    (r"^encoder\.layers?\.(\d+)\.", r"encoder.block_\1."),
    (r"mlp\.(fc\d)", r"\1"),
    (r"attention\.(?:self|attention)\.(query|key|value)", lambda m: f"self_attn.{m[1][0]}_proj"),
    (r"attention\.output\.dense", "self_attn.out_proj"),
    (r"attention\.output\.LayerNorm", "attention_norm"),
    (r"intermediate\.dense", "fc1"),
    (r"output\.dense", "fc2"),
    (r"output\.LayerNorm", "output_norm"),
    (r"layernorm_before", "layer_norm1"),
    (r"layernorm_after", "layer_norm2"),
    (r"^head\.probe$", "probe"),
    (r"^head\.attention\.", "probe_attn."),
    (r"(norm\d?)\.weight$", r"\1.scale"),
    (r"\.weight$", ".kernel"),
)


def _tree(tensors):
    """Renames `{key: tensor}` to a tree of Flax parameters, kernels transposed and packed projections split."""
    flat = {}
    for key, tensor in tensors.items():
        path, value = functools.reduce(lambda found, rule: re.sub(*rule, found), NAMES, key), tensor.numpy()
        if "in_proj" in path:
            for part, third in zip("qkv", np.split(value, 3), strict=True):
                flat[f"probe_attn.{part}_proj.{'kernel' if value.ndim == 2 else 'bias'}"] = third.T
        elif path.endswith("kernel"):
            flat[path] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        else:
            flat[path] = value.reshape(-1) if path in ("probe", "class_embedding") else value[0] if value.ndim == 3 else value
    tree = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = value
    return tree


def _of(tensors, prefix):
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _run(tower, params, inputs):
    """Returns (features, output of every block) in float64, after checking that the tree is the tower's own."""
    expected = jax.eval_shape(tower.init, jax.random.key(0), inputs)["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)
    with jax.enable_x64(True):
        apply = jax.jit(functools.partial(tower.apply, capture_intermediates=True, mutable=["intermediates"]))
        features, captured = jax.tree.map(np.asarray, apply({"params": params}, inputs))
    found = captured["intermediates"].get("encoder", captured["intermediates"])
    return features, [found[f"block_{index}"]["__call__"][0] for index in range(tower.spec.stack.layers)]


def _compare(tower, params, inputs, layers, call, expected_of):
    """Compares every block and the features with a torch model; one step off in activation or epsilon must show."""
    with core.captured(core.blocks("torch", layers)) as found, torch.no_grad():
        expected = expected_of(call()).numpy()
    features, states = _run(tower, params, inputs)
    for index, state in enumerate(states):
        np.testing.assert_allclose(state.reshape(found[f"torch_block_{index}"].shape), found[f"torch_block_{index}"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(features, expected, atol=1e-9, rtol=0)
    stack = tower.spec.stack
    for changes in ({"act": "gelu_tanh" if stack.act == "gelu" else "gelu"}, {"epsilon": 1e-6 if stack.epsilon < 1e-6 else stack.epsilon * 0.1}):
        mutant = type(tower)(dataclasses.replace(tower.spec, stack=dataclasses.replace(stack, **changes)))
        assert np.abs(_run(mutant, params, inputs)[0] - expected).max() > 1e-7
    return features


def _stack(act, epsilon):
    return specs.StackSpec(width=24, layers=4, heads=3, mlp_width=36, act=act, epsilon=epsilon)


def _pixels():
    return torch.from_numpy(np.moveaxis(IMAGE_PIXELS, -1, 1).copy())


def _unit(vectors):
    return (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()


def _projected(head, features):
    with jax.enable_x64(True):
        return np.asarray(heads.project(head, features))


@pytest.mark.parametrize(("act", "epsilon", "eos"), [("quick_gelu", 1e-5, END), ("gelu", 1e-6, 2), ("gelu_new", 1e-5, END)])
def test_clip(act, epsilon, eos):
    from transformers import CLIPConfig, CLIPModel

    common = {**SIZES, "hidden_act": act, "layer_norm_eps": epsilon}
    report = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "eos_token_id": eos, "bos_token_id": 0, "pad_token_id": 1}
    model = core.randomise(CLIPModel(CLIPConfig(vision_config={**common, **PICTURES}, text_config=report, projection_dim=20)), 0).double()
    tensors, ids = core.saved(model), IDS.copy()
    ids[np.arange(3), [1, 6, LENGTH - 1]] = END
    image = vit.ImageTower(specs.VitSpec(stack=_stack(act, epsilon), **PICTURES))
    report_tower = text.TextTower(specs.TextSpec(stack=_stack(act, epsilon), vocab_size=VOCABULARY, positions=LENGTH, eos_token_id=eos))
    vision, language = model.vision_model, model.text_model
    pooled = _compare(
        image,
        _tree(_of(tensors, "vision_model.")),
        IMAGE_PIXELS,
        vision.encoder.layers,
        lambda: vision(pixel_values=_pixels()),
        lambda output: output.pooler_output,
    )
    said = _compare(
        report_tower,
        _tree(_of(tensors, "text_model.")),
        ids,
        language.encoder.layers,
        lambda: language(input_ids=torch.from_numpy(ids)),
        lambda output: output.pooler_output,
    )
    with torch.no_grad():
        whole = model(input_ids=torch.from_numpy(ids), pixel_values=_pixels())
    for side, features, expected in (("visual", pooled, whole.image_embeds), ("text", said, whole.text_embeds)):
        found = _projected({"kernel": tensors[f"{side}_projection.weight"].numpy().T}, features)
        np.testing.assert_allclose(found, _unit(expected), atol=1e-9, rtol=0)


def test_siglip():
    from transformers import SiglipConfig, SiglipModel

    common = {**SIZES, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    report = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "projection_size": 24}
    model = core.randomise(SiglipModel(SiglipConfig(vision_config={**common, **PICTURES}, text_config=report)), 1).double()
    tensors, stack = core.saved(model), _stack("gelu_pytorch_tanh", 1e-6)
    ids = np.where(np.arange(LENGTH) < np.array([[3], [8], [LENGTH]]), IDS, 1)
    head = "vision_model.head."
    residual = _tree({key.removeprefix(head): tensor for key, tensor in tensors.items() if key.startswith((f"{head}layernorm", f"{head}mlp"))})
    residual["norm"] = residual.pop("post_layernorm")
    tower = {key: tensor for key, tensor in _of(tensors, "vision_model.").items() if not key.startswith((f"{head}layernorm", f"{head}mlp"))}
    vision, language = model.vision_model, model.text_model
    kept = []
    vision.head.attention.register_forward_hook(lambda _module, _inputs, output: kept.append(output[0]))
    spec = specs.VitSpec(stack=stack, class_token=False, pre_norm=False, patch_bias=True, pool="probe", **PICTURES)
    pooled = _compare(
        vit.ImageTower(spec), _tree(tower), IMAGE_PIXELS, vision.encoder.layers, lambda: vision(pixel_values=_pixels()), lambda _output: kept[0][:, 0]
    )
    said = _compare(
        text.TextTower(specs.TextSpec(stack=stack, vocab_size=VOCABULARY, positions=LENGTH, eos_token_id=1, causal=False, pool="last")),
        _tree({key: tensor for key, tensor in _of(tensors, "text_model.").items() if not key.startswith("text_model.head.")}),
        ids,
        language.encoder.layers,
        lambda: language(input_ids=torch.from_numpy(ids)),
        lambda output: output.last_hidden_state[:, -1],
    )
    with torch.no_grad():
        whole = model(input_ids=torch.from_numpy(ids), pixel_values=_pixels())
    np.testing.assert_allclose(_projected(residual, pooled), _unit(whole.image_embeds), atol=1e-9, rtol=0)
    affine = {"kernel": tensors["text_model.head.weight"].numpy().T, "bias": tensors["text_model.head.bias"].numpy()}
    np.testing.assert_allclose(_projected(affine, said), _unit(whole.text_embeds), atol=1e-9, rtol=0)


def test_vit_of_timm_form():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**SIZES, **PICTURES, hidden_act="gelu", layer_norm_eps=1e-6)
    model = core.randomise(ViTModel(config, add_pooling_layer=False), 2).double()
    spec = specs.VitSpec(stack=_stack("gelu", 1e-6), pre_norm=False, patch_bias=True, **PICTURES)
    layers = next(part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList))
    _compare(vit.ImageTower(spec), _tree(core.saved(model)), IMAGE_PIXELS, layers, lambda: model(pixel_values=_pixels()), lambda o: o.last_hidden_state[:, 0])


POOLS = {
    "cls": lambda states, mask: states[-1][:, 0],
    "sep": lambda states, mask: states[-1][torch.arange(len(mask)), mask.sum(1) - 1],
    "three_layers": lambda states, mask: torch.stack([states[1], states[2], states[-1]]).permute(1, 0, 2, 3).mean(2).mean(1),
    "last_four": lambda states, mask: (torch.stack(states[-4:], 1) * mask[:, None, :, None]).mean(2).sum(1),
}


@pytest.mark.parametrize(("pool", "act", "epsilon"), [*((pool, "gelu", 1e-12) for pool in POOLS), ("cls", "gelu_new", 1e-5)])
def test_bert(pool, act, epsilon):
    from transformers import BertConfig, BertModel

    config = BertConfig(**SIZES, hidden_act=act, layer_norm_eps=epsilon, vocab_size=VOCABULARY, max_position_embeddings=20)
    model = core.randomise(BertModel(config, add_pooling_layer=False), 3).double()
    tensors = {key: tensor for key, tensor in core.saved(model).items() if not key.endswith("position_ids")}
    params = _tree(tensors)
    params |= params.pop("encoder")
    ids = np.where(np.arange(LENGTH) < np.array([[4], [9], [LENGTH]]), IDS, 0)
    tokens, mask = torch.from_numpy(ids), torch.from_numpy((ids != 0).astype(np.int64))
    spec = specs.BertSpec(stack=_stack(act, epsilon), vocab_size=VOCABULARY, length=LENGTH, pool=pool, positions=20)
    _compare(
        bert.BertTower(spec),
        params,
        ids,
        model.encoder.layer,
        lambda: model(input_ids=tokens, attention_mask=mask, output_hidden_states=True),
        lambda output: POOLS[pool](output.hidden_states, mask),
    )
