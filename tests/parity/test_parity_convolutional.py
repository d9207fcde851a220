"""ResNet, BioViL-T and Swin towers in float64 against transformers, torchvision, timm and hi-ml, stage by stage.

Needs torch and transformers; torchvision, timm and hi-ml-multimodal as well (all three with `pip install --no-deps`).
"""

import functools
import re

import jax
import numpy as np
import pytest

from relink_jax.encoders import resnet, specs, swin, temporal

pytestmark = pytest.mark.parity
pytest.importorskip("torch")

from oracles import core  # noqa: E402

BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
TORCHVISION = (
    (r"^conv1\.weight$", "stem.conv.kernel"),
    (r"^bn1\.", "stem.bn."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.weight$", r"stage_\1.block_\2.downsample.conv.kernel"),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"stage_\1.block_\2.downsample.bn."),
    (r"^layer(\d)\.(\d+)\.(conv\d)\.weight$", r"stage_\1.block_\2.\3.kernel"),
    (r"^layer(\d)\.(\d+)\.", r"stage_\1.block_\2."),
)
HF_RESNET = (
    (r"^embedder\.embedder\.", "stem."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.", lambda m: f"stage_{int(m[1]) + 1}.block_{m[2]}.downsample."),
    (
        r"^encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(.)\w+",
        lambda m: f"stage_{int(m[1]) + 1}.block_{m[2]}.{dict(c='conv', n='bn')[m[4]]}{int(m[3]) + 1}",
    ),
    (r"convolution\.weight$", "conv.kernel"),
    (r"(conv\d)\.weight$", r"\1.kernel"),
    (r"normalization\.", "bn."),
)
HF_SWIN = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embedding."),
    (r"^embeddings\.norm\.", "patch_norm."),
    (r"^layernorm\.", "final_norm."),
    (r"^encoder\.layers\.(\d)\.", r"stage_\1."),
    (r"\.blocks\.(\d)\.", r".block_\1."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.self\.(query|key|value)", lambda m: f"attn.{m[1][0]}_proj"),
    (r"attention\.self\.relative_position_bias_table", "attn.relative_position_bias"),
    (r"attention\.output\.dense", "attn.out_proj"),
    (r"intermediate\.dense", "fc1"),
    (r"output\.dense", "fc2"),
)
TIMM_SWIN = (
    (r"^patch_embed\.proj\.", "patch_embedding."),
    (r"^patch_embed\.norm\.", "patch_norm."),
    (r"^norm\.", "final_norm."),
    (r"^layers\.(\d)\.downsample", lambda m: f"stage_{int(m[1]) - 1}.downsample"),
    (r"^layers\.(\d)\.", r"stage_\1."),
    (r"\.blocks\.(\d)\.", r".block_\1."),
    (r"attn\.proj\.", "attn.out_proj."),
    (r"mlp\.", ""),
    (r"relative_position_bias_table", "relative_position_bias"),
)
HI_ML = (
    (r"^backbone_to_vit\.weight$", "backbone_to_vit.kernel"),
    (r"^vit_pooler\.type_embed$", "pooler.type_embedding"),
    (r"^vit_pooler\.", "pooler."),
    (r"blocks\.(\d)\.", r"block_\1."),
    (r"attn\.proj_(.)\.", r"attn.\1_proj."),
    (r"attn\.proj\.", "attn.out_proj."),
    (r"mlp\.", ""),
)


def _randomise(model, seed=0):
    return core.randomise(model, seed).double()


def _tree(state, rules, leaves):
    """Renames `{key: array}` to a tree of Flax parameters; every key must be renamed by some rule."""
    tree = {}
    for key, tensor in state.items():
        path, array = key, np.asarray(tensor)
        for pattern, replacement in rules:
            path = re.sub(pattern, replacement, path)
        if path.endswith("num_batches_tracked"):
            continue
        *parents, name = path.split(".")
        if array.ndim == 4:
            name, array = "kernel", array.transpose(2, 3, 1, 0)
        elif array.ndim == 2 and name == "weight":
            name, array = "kernel", array.T
        else:
            name = leaves.get(name, name)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree


def _shapes(tree):
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _run(tower, params, *inputs):
    """Returns the features and every module's output, in float64, after checking that the tree is the tower's own."""
    expected = jax.eval_shape(tower.init, jax.random.key(0), *inputs)["params"]
    assert _shapes(params) == _shapes(expected)
    with jax.enable_x64(True):
        apply = jax.jit(functools.partial(tower.apply, capture_intermediates=True, mutable=["intermediates"]))
        features, captured = apply({"params": params}, *inputs)
        return np.asarray(features), jax.tree.map(np.asarray, captured["intermediates"])


def _pixels(size, count=2, seed=1):
    import torch

    pixels = np.random.default_rng(seed).standard_normal((count, size, size, 3))
    return pixels, torch.tensor(np.moveaxis(pixels, -1, 1))


def _same(ours, theirs):
    """Compares [B, H, W, C] with [B, C, H, W], or vectors with vectors."""
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 else theirs, atol=1e-9, rtol=0)


def test_resnet_of_transformers_stage_by_stage():
    import torch
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[1, 2, 1, 1], layer_type="bottleneck")
    model = _randomise(ResNetModel(config))
    params = _tree(core.saved(model), HF_RESNET, BATCH_NORM)
    pixels, images = _pixels(37)
    spec = specs.ResNetSpec(image_size=37, blocks=(1, 2, 1, 1), width=4)
    features, captured = _run(resnet.ResNetTower(spec), params, pixels)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True)
    for index, hidden in enumerate(expected.hidden_states[1:], start=1):
        _same(captured[f"stage_{index}"]["__call__"][0], hidden)
    _same(features, expected.pooler_output.flatten(1))
    grid, _ = _run(resnet.ResNetTower(specs.ResNetSpec(image_size=37, blocks=(1, 2, 1, 1), width=4, pool="map")), params, pixels)
    _same(grid, expected.last_hidden_state.flatten(2).transpose(1, 2))


def _small_torchvision(kind=None):
    import torchvision
    from torchvision.models.resnet import Bottleneck

    return _randomise((kind or torchvision.models.ResNet)(block=Bottleneck, layers=[1, 1, 1, 1]))


def _without_fc(state):
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


@pytest.mark.parametrize("resize", [0, 51])
def test_resnet_of_torchvision_with_and_without_glorias_upsampling(resize):
    import torch

    model = _small_torchvision()
    params = _tree(_without_fc(model.state_dict()), TORCHVISION, BATCH_NORM)
    model.fc = torch.nn.Identity()
    pixels, images = _pixels(40)
    spec = specs.ResNetSpec(image_size=40, blocks=(1, 1, 1, 1), resize=resize)
    features, _ = _run(resnet.ResNetTower(spec), params, pixels)
    with torch.no_grad():
        _same(features, model(torch.nn.Upsample(size=(resize, resize), mode="bilinear", align_corners=True)(images) if resize else images))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_resnet50_has_the_names_and_shapes_of_the_published_one(library):
    import timm
    import torch
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.resnet50() if library == "torchvision" else timm.create_model("resnet50")
    state = {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in _without_fc(model.state_dict()).items()}
    tower = resnet.ResNetTower(specs.ResNetSpec(image_size=224))
    expected = jax.eval_shape(tower.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))["params"]
    assert _shapes(_tree(state, TORCHVISION, BATCH_NORM)) == _shapes(expected)


def _exact_positions(pooler, grid, width):
    """Replaces hi-ml's float32 table, after comparing with it, by ours in float64."""
    import torch

    exact = temporal.sine_positions(grid, width)
    np.testing.assert_allclose(pooler.pos_embed[0].numpy(), exact, atol=2e-6)
    pooler.pos_embed = torch.tensor(exact[None])


@pytest.mark.parametrize("grid", [2, 5])
def test_temporal_pooler_of_hi_ml_block_by_block(grid):
    import torch
    from health_multimodal.image.model.transformer import VisionTransformerPooler

    model = _randomise(VisionTransformerPooler(input_dim=32, grid_shape=(grid, grid)))
    _exact_positions(model, grid, 32)
    params = _tree({f"vit_pooler.{key}": tensor for key, tensor in model.state_dict().items()}, HI_ML, {"weight": "scale"})["pooler"]
    params["type_embedding"] = params["type_embedding"][:, 0]
    current, previous = np.random.default_rng(3).standard_normal((2, 2, grid * grid, 32))
    maps = [torch.tensor(x.transpose(0, 2, 1).reshape(2, 32, grid, grid)) for x in (current, previous)]
    blocks = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
    with torch.no_grad():
        expected = model(*maps)
    features, captured = _run(temporal.TemporalPooler(3, 8), params, current, previous)
    for index, hidden in enumerate(blocks):
        _same(captured[f"block_{index}"]["__call__"][0], hidden)
    _same(features, expected.flatten(2).transpose(1, 2))


def test_multi_image_encoder_of_hi_ml_with_and_without_a_prior_image():
    import torch
    from health_multimodal.image.model.encoder import MultiImageEncoder
    from health_multimodal.image.model.resnet import ResNetHIML
    from health_multimodal.image.model.transformer import VisionTransformerPooler

    model = MultiImageEncoder.__new__(MultiImageEncoder)  # its constructor fixes 448 pixels and four times the blocks; forward is its own
    torch.nn.Module.__init__(model)
    model.encoder = _small_torchvision(ResNetHIML)
    model.backbone_to_vit = torch.nn.Conv2d(2048, 16, 1, bias=False)
    model.vit_pooler = VisionTransformerPooler(input_dim=16, grid_shape=(2, 2))
    model.missing_previous_emb = torch.nn.Parameter(torch.zeros(1, 16, 1, 1))
    model = _randomise(model)
    _exact_positions(model.vit_pooler, 2, 16)
    state = _without_fc({key.removeprefix("encoder."): tensor for key, tensor in model.state_dict().items() if key != "missing_previous_emb"})
    params = _tree({key: tensor for key, tensor in state.items() if key.startswith(("vit_pooler.", "backbone"))}, HI_ML, {"weight": "scale"})
    params |= _tree({key: tensor for key, tensor in state.items() if not key.startswith(("vit_pooler.", "backbone"))}, TORCHVISION, BATCH_NORM)
    params["pooler"]["type_embedding"] = params["pooler"]["type_embedding"][:, 0]
    (pixels, images), (prior, priors) = _pixels(40), _pixels(40, seed=2)
    tower = resnet.ResNetTower(specs.ResNetSpec(image_size=40, blocks=(1, 1, 1, 1), pool="map", joint_width=16))
    with torch.no_grad():
        alone, both = (model(*inputs, return_patch_embeddings=True)[0].flatten(2).transpose(1, 2) for inputs in ((images,), (images, priors)))
    assert alone.shape == both.shape == (2, 4, 32)
    _same(_run(tower, params, pixels)[0], alone[..., :16])
    np.testing.assert_array_equal(alone[..., 16:].detach(), np.broadcast_to(model.missing_previous_emb.detach().numpy().ravel(), (2, 4, 16)))
    _same(_run(tower, params, pixels, prior)[0], both)


@pytest.mark.parametrize(("size", "window", "epsilon"), [(32, 4, 1e-5), (19, 3, 1e-5), (19, 3, 1e-2)], ids=["divisible", "padded", "epsilon"])
def test_swin_of_transformers_stage_by_stage(size, window, epsilon):
    """Grids 16, 8, 4 of windows 4, and grids 10, 5, 3 of windows 3; scaled dot products since the eager path rounds its softmax to float32."""
    import torch
    from transformers import SwinConfig, SwinModel

    geometry = {"depths": [2, 2, 3], "num_heads": [2, 4, 4], "window_size": window, "mlp_ratio": 2, "layer_norm_eps": epsilon}
    config = SwinConfig(image_size=size, patch_size=2, embed_dim=8, **geometry, attn_implementation="sdpa")
    model = _randomise(SwinModel(config))
    params = _tree(core.saved(model), HF_SWIN, {"weight": "scale"})
    pixels, images = _pixels(size)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True)
    geometry = {"blocks": (2, 2, 3), "heads": (2, 4, 4), "width": 8, "window": window, "patch_size": 2, "mlp_ratio": 2, "epsilon": epsilon}
    for pool, vector in (("mean", expected.pooler_output), ("first", expected.last_hidden_state[:, 0])):
        features, captured = _run(swin.SwinTower(specs.SwinSpec(image_size=size, pool=pool, **geometry)), params, pixels)
        for index, hidden in enumerate(expected.reshaped_hidden_states[1:]):
            _same(captured[f"stage_{index}"]["__call__"][0], hidden)
        _same(features, vector)


def test_swin_of_timm_whose_windows_shrink_with_the_grid():
    import torch
    from timm.models import swin_transformer

    geometry = {"depths": (2, 2, 2, 2), "num_heads": (2, 4, 4, 8), "window_size": 4, "mlp_ratio": 2}
    model = _randomise(swin_transformer.SwinTransformer(img_size=24, patch_size=2, embed_dim=8, num_classes=0, **geometry))
    state = {}
    for key, tensor in model.state_dict().items():
        if key.endswith(("qkv.weight", "qkv.bias")):
            state |= {key.replace("qkv", f"{part}_proj"): rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        elif key.endswith("bias_table") and len(tensor) < 49:
            reach = round(len(tensor) ** 0.5)
            whole = torch.full((7, 7, tensor.shape[1]), np.nan, dtype=torch.float64)
            whole[(7 - reach) // 2 : (7 + reach) // 2, (7 - reach) // 2 : (7 + reach) // 2] = tensor.reshape(reach, reach, -1)
            state[key] = whole.reshape(49, -1)
        elif not key.endswith(("relative_position_index", "attn_mask")):
            state[key] = tensor
    params = _tree(state, TIMM_SWIN, {"weight": "scale"})
    pixels, images = _pixels(24)
    spec = specs.SwinSpec(24, "mean", blocks=(2, 2, 2, 2), heads=(2, 4, 4, 8), width=8, window=4, patch_size=2, mlp_ratio=2)
    features, _ = _run(swin.SwinTower(spec), params, pixels)
    assert {block.window_size for stage in model.layers for block in stage.blocks} == {(4, 4), (3, 3), (2, 2)}
    with torch.no_grad():
        _same(features, model(images))
