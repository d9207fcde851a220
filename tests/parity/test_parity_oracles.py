"""The oracles against the libraries whose files they imitate: strict loading and equal outputs.

open_clip, timm, torchvision and hi-ml-multimodal are installed without their dependencies (`./launch/test.sh --parity`); where one is
absent, its tests are skipped with that reason.
"""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from oracles import biomedclip, biovil, core, families, names, parts  # noqa: E402

TIGHT = 1e-9


def _images(oracle, count=2):
    pixels, ids = oracle.inputs(5, count)
    return pixels, ids, *core.to_torch(pixels, ids)


def _text_config(directory, oracle):
    """Writes the BertConfig that open_clip reads a text tower from."""
    stack, text = oracle.geometry["text"]["stack"], oracle.geometry["text"]
    parts.bert_config(stack, text["vocab_size"], text["positions"]).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("family", ["clip-hf", "pubmedclip", "xrayclip", "siglip"])
def test_transformers_loads_its_layouts_without_a_missing_or_unexpected_key(tmp_path, family):
    from transformers import AutoModel

    oracle = families.build(family, tmp_path)
    model, report = AutoModel.from_pretrained(str(tmp_path), local_files_only=True, output_loading_info=True, dtype=torch.float64)
    unexpected = {key for key in report["unexpected_keys"] if not key.endswith("position_ids")}
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not unexpected
    pixels, ids, images, tokens = _images(oracle)
    expected = oracle.reference(pixels, ids)
    with torch.no_grad():
        output = model.eval()(pixel_values=images, input_ids=tokens)
    for side in ("image", "text"):
        np.testing.assert_allclose(core.array(output[f"{side}_embeds"]), expected[f"{side}_embeddings"], atol=TIGHT)


@pytest.mark.parametrize("family", ["clip-hf", "biomedclip", "siglip", "cxr-clip-resnet"])
def test_transformers_reads_the_small_tokenizers(tmp_path, family):
    from transformers import BertTokenizer, CLIPTokenizer, SiglipTokenizer

    kind = {"clip-hf": CLIPTokenizer, "siglip": SiglipTokenizer}.get(family, BertTokenizer)
    oracle = families.build(family, tmp_path)
    tokenizer = kind.from_pretrained(str(tmp_path), local_files_only=True)
    ids = tokenizer(["No acute effusion."], padding="max_length", truncation=True, max_length=oracle.text_length)["input_ids"][0]
    assert len(ids) == oracle.text_length
    assert max(ids) < oracle.geometry["text"]["vocab_size"]
    frame = {"clip-hf": (0, oracle.geometry["text"]["vocab_size"] - 2), "siglip": (-1, 1)}.get(family, (0, 2))
    assert ids[frame[0]] == frame[1]


@pytest.mark.parametrize("family", ["clip-openai", "chexzero"])
def test_open_clip_loads_openais_layout_strictly(tmp_path, family):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    oracle = families.build(family, tmp_path)
    path = next(tmp_path.glob("*.pt"))
    state = torch.jit.load(path).state_dict() if family == "clip-openai" else torch.load(path, weights_only=True)
    image, text = oracle.geometry["image"], oracle.geometry["text"]
    vision, words = image["stack"], text["stack"]
    model = open_clip.model.CLIP(
        embed_dim=oracle.geometry["dim"],
        vision_cfg={
            "layers": vision["layers"],
            "width": vision["width"],
            "head_width": vision["width"] // vision["heads"],
            "mlp_ratio": vision["mlp_width"] / vision["width"],
            "patch_size": image["patch_size"],
            "image_size": image["image_size"],
        },
        text_cfg={
            "context_length": text["positions"],
            "vocab_size": text["vocab_size"],
            "width": words["width"],
            "heads": words["heads"],
            "layers": words["layers"],
            "mlp_ratio": words["mlp_width"] / words["width"],
        },
        quick_gelu=True,
    )
    extra = {"input_resolution", "context_length", "vocab_size"}
    assert (extra <= set(state)) == (family == "clip-openai")
    model.load_state_dict({key: tensor for key, tensor in state.items() if key not in extra}, strict=True)
    pixels, ids, images, tokens = _images(oracle)
    expected = oracle.reference(pixels, ids)
    model = model.double().eval()
    with torch.no_grad():
        np.testing.assert_allclose(core.array(model.encode_image(images)), expected["image_projected"], atol=TIGHT)
        np.testing.assert_allclose(core.array(model.encode_text(tokens)), expected["text_projected"], atol=TIGHT)


def test_open_clip_loads_biomedclip_strictly(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    oracle = families.build("biomedclip", tmp_path, size="timm")
    text = oracle.geometry["text"]
    name = _text_config(tmp_path / "bert", oracle)
    model = open_clip.model.CustomTextCLIP(
        embed_dim=oracle.geometry["dim"],
        vision_cfg={
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": oracle.geometry["image"]["image_size"],
        },
        text_cfg={
            "hf_model_name": name,
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": text["length"],
        },
    )
    state = torch.load(tmp_path / biomedclip.FILE, weights_only=True)
    assert state.pop("text.transformer.embeddings.position_ids").dtype == torch.int64
    model.load_state_dict(state, strict=True)
    pixels, ids, images, tokens = _images(oracle)
    expected = oracle.reference(pixels, ids)
    model = model.double().eval()
    with torch.no_grad():
        np.testing.assert_allclose(core.array(model.encode_image(images)), expected["image_projected"], atol=TIGHT)
        np.testing.assert_allclose(core.array(model.encode_text(tokens)), expected["text_projected"], atol=TIGHT)


def test_torchvision_loads_the_renamed_resnet_strictly():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    resnet = core.randomise(parts.resnet(64, (2, 1, 1, 1)), 0)
    twin = torchvision.models.resnet.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1])
    twin.fc = torch.nn.Identity()
    twin.load_state_dict(names.torchvision_resnet(core.saved(resnet)), strict=True)
    images = torch.randn(2, 3, 70, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = resnet.double()(pixel_values=images).pooler_output.flatten(1), twin.double().eval()(images)
    np.testing.assert_allclose(core.array(ours), core.array(theirs), atol=TIGHT)


@pytest.mark.parametrize("family", ["biovil", "biovil-t"])
def test_hi_ml_loads_the_image_files_strictly(tmp_path, family):
    model_lib = pytest.importorskip("health_multimodal.image.model.model", reason="hi-ml-multimodal is not installed")
    oracle = families.build(family, tmp_path, size="hi-ml")
    kind = {"biovil": (model_lib.ImageModel, "resnet50"), "biovil-t": (model_lib.MultiImageModel, "resnet50_multi_image")}[family]
    model = kind[0](img_encoder_type=kind[1], joint_feature_size=oracle.geometry["dim"])
    model.load_state_dict(torch.load(tmp_path / biovil.FILES[family], weights_only=True), strict=True)
    pixels, ids = oracle.inputs(5, 1)
    previous = oracle.inputs(6, 1)[0]
    model = model.double().eval()
    images, prior = core.to_torch(pixels, ids)[0], core.to_torch(previous, ids)[0]
    with torch.no_grad():
        output = model(images)
        np.testing.assert_allclose(core.array(output.projected_global_embedding), oracle.reference(pixels, ids)["image_projected"], atol=TIGHT)
        if family == "biovil-t":
            table = biovil.sine_table(14, 256)[None]
            np.testing.assert_allclose(core.array(model.encoder.vit_pooler.pos_embed), core.array(table), atol=5e-6)
            model.encoder.vit_pooler.pos_embed = table
            paired = core.array(model(images, prior).projected_global_embedding)
            np.testing.assert_allclose(paired, oracle.reference(pixels, ids, previous)["image_projected"], atol=TIGHT)


def test_hi_ml_loads_the_text_file_strictly(tmp_path):
    cxrbert = pytest.importorskip("health_multimodal.text.model.modelling_cxrbert", reason="hi-ml-multimodal is not installed")
    oracle = families.build("biovil", tmp_path)
    config = cxrbert.CXRBertConfig.from_pretrained(str(tmp_path))
    model = cxrbert.CXRBertModel(config)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert state.pop("bert.embeddings.position_ids").dtype == torch.int64
    model.load_state_dict(state, strict=True)
    pixels, ids = oracle.inputs(5)
    tokens = core.to_torch(pixels, ids)[1]
    with torch.no_grad():
        found = model.double().eval().get_projected_text_embeddings(tokens, (tokens != 0).long(), normalize_embeddings=False)
    np.testing.assert_allclose(core.array(found), oracle.reference(pixels, ids)["text_projected"], atol=TIGHT)


def test_swin_index_buffers_are_those_of_the_library():
    swin = parts.swin(8, (1, 1), (1, 2), 56)
    computed = parts.swin_state(swin, (1, 1))["encoder.layers.0.blocks.0.attention.self.relative_position_index"]
    known = [buffer for name, buffer in swin.named_buffers() if name.endswith("relative_position_index")]
    assert known
    np.testing.assert_array_equal(computed.flatten(), known[0].flatten())
