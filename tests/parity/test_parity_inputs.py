"""Pixels and ids against the libraries that the published models' authors used: torchvision, open_clip, hi-ml, OpenCV, transformers."""

import gzip
import json
import pathlib

import numpy as np
import pictures
import pytest

from relink_jax.cohort import images
from relink_jax.encoders import cleaning, recipes, resampling, tokenize

pytestmark = pytest.mark.parity

TEXTS = [
    *("AP/PA", "___", "XXXX", "36.5 \N{DEGREE SIGN}C, Größe, naïve, a\N{NO-BREAK SPACE}b", "", "?!...", "one\nline\r\nmore\ttext."),
    *("Small left pleural effusion; 2.5-cm nodule (RLL), it's unchanged.", "&lt;5 mm&gt; &amp;amp; more", "effusion " * 400, "PA & lateral 3/14"),
]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return pictures.write(tmp_path_factory.mktemp("pictures"))


def _torchvision(side, kind, mean, std):
    from torchvision import transforms

    size = transforms.Resize(side, interpolation=getattr(transforms.InterpolationMode, kind))
    return transforms.Compose([size, transforms.CenterCrop(side), transforms.ToTensor(), transforms.Normalize(mean=mean, std=std)])


def _same(name, path, expected):
    np.testing.assert_array_equal(recipes.RECIPES[name].pixels(images.read_image(path)), np.moveaxis(np.asarray(expected), 0, -1))


@pytest.mark.parametrize("kind", pictures.NAMES)
def test_torchvision_recipes(files, kind):
    picture = pictures.grey(files[kind]).convert("RGB")
    _same("clip", files[kind], _torchvision(224, "BICUBIC", MEAN, STD)(picture))
    _same("cxr_clip_resnet", files[kind], _torchvision(224, "BILINEAR", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(picture))
    _same("cxr_clip_swin", files[kind], _torchvision(224, "BILINEAR", [0.5] * 3, [0.5] * 3)(picture))


@pytest.mark.parametrize("kind", pictures.NAMES)
def test_clip_recipe_is_open_clips(files, kind):
    from open_clip import transform

    _same("clip", files[kind], transform.image_transform(224, is_train=False)(pictures.grey(files[kind]).convert("RGB")))


@pytest.mark.parametrize("kind", pictures.NAMES)
@pytest.mark.parametrize(("name", "crop"), [("biovil", 480), ("biovil_t", 448)])
def test_biovil_recipes_are_hi_mls(files, name, crop, kind):
    from health_multimodal.image.data import io, transforms
    from PIL import Image

    picture = Image.fromarray(io.remap_to_uint8(pictures.integers(files[kind]))).convert("L")
    _same(name, files[kind], transforms.create_chest_xray_transform_for_inference(512, crop)(picture))


@pytest.mark.parametrize("kind", pictures.NAMES)
def test_chexzero_recipe_is_torchs_to_the_last_roundings(files, kind):
    import torch
    from PIL import Image
    from torchvision import transforms

    picture = pictures.grey(files[kind]).convert("RGB")
    ratio = float(320) / max(picture.size)
    small = picture.resize(tuple(int(length * ratio) for length in picture.size), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (320, 320))
    canvas.paste(small, ((320 - small.size[0]) // 2, (320 - small.size[1]) // 2))
    steps = transforms.Compose(
        [
            transforms.Normalize((101.48761,) * 3, (83.43944,) * 3),
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC, antialias=False),
        ]
    )
    expected = steps(torch.from_numpy(np.repeat(np.asarray(canvas, np.float32)[None], 3, 0)))
    found = recipes.RECIPES["chexzero"].pixels(images.read_image(files[kind]))
    np.testing.assert_allclose(found, np.moveaxis(expected.numpy(), 0, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", pictures.NAMES)
def test_squash_recipe_is_transformers_pillow_processor(files, kind):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 448, "width": 448})
    _same("squash", files[kind], processor(pictures.grey(files[kind]), return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("shape", [(320, 320), (37, 500), (100, 224), (9, 7)])
@pytest.mark.parametrize("size", [(224, 224), (50, 31), (500, 400)])
def test_cubic_is_torchs(shape, size):
    import torch

    plane = np.random.default_rng(0).uniform(-1.2, 1.9, shape).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size, mode="bicubic", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(resampling.cubic(plane, *size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_area_is_opencvs_to_the_last_bit(seed):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    draw = np.random.default_rng(seed)
    grey = draw.integers(0, 256, draw.integers(1, 900, 2), dtype=np.uint8)
    factor = 256 / max(grey.shape)
    for height, width in ([max(1, int(length * factor)) for length in grey.shape], [max(1, length // 3) for length in grey.shape], grey.shape):
        expected = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(resampling.area(grey, height, width), expected.reshape(height, width))


@pytest.mark.parametrize("kind", pictures.NAMES)
def test_gloria_recipe_is_opencvs_and_torchvisions(files, kind):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    from PIL import Image
    from torchvision import transforms

    grey = np.asarray(pictures.grey(files[kind]))
    height, width = grey.shape
    size = (int(float(width) * (256 / float(height))), 256) if height >= width else (256, int(float(height) * (256 / float(width))))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    lacking = [256 - length for length in small.shape]
    square = np.pad(small, [(int(np.floor(lack / 2)), int(np.ceil(lack / 2))) for lack in lacking])
    steps = transforms.Compose([transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    _same("gloria", files[kind], steps(Image.fromarray(square).convert("RGB")))


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory):
    """CLIP's own vocabulary and merges, from the table that open_clip ships."""
    from open_clip import tokenizer

    directory = tmp_path_factory.mktemp("clip")
    lines = gzip.decompress(pathlib.Path(tokenizer.default_bpe()).read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    alphabet = list(tokenizer.bytes_to_unicode().values())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(line.split()) for line in lines), tokenize.START, tokenize.END]
    (directory / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize("rule", ["clip", "chexzero"])
def test_clip_ids_over_the_whole_vocabulary_are_those_of_the_original_tokenizer(clip_files, rule):
    from open_clip import tokenizer as upstream

    tokenizer, clean = tokenize.Tokenizer(clip_files, rule=rule), cleaning.CLEANING[tokenize.RULES[rule].cleaning]
    assert (tokenizer.vocab_size, tokenizer.highest_id, tokenizer.end_id) == (49408, 49407, 49407)
    texts = [text for text in TEXTS if "&" not in text]
    expected = upstream.SimpleTokenizer()([clean(text) for text in texts]).numpy()
    found = tokenizer(texts)
    used = tokenizer.used(found)
    for row, theirs, count in zip(found, expected, used, strict=True):
        np.testing.assert_array_equal(row[:count], theirs[:count])
        assert not theirs[count:].any()
    assert (found[:, 0] == 49406).all()


@pytest.fixture(scope="module")
def bert_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    letters = [chr(code) for code in range(33, 127)] + ["°", "ö", "ß"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), "effusion", "nodule", "pa"]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    return directory


def test_biomedclip_ids_are_open_clips_on_texts_that_ftfy_only_unescapes(bert_files):
    from open_clip.tokenizer import HFTokenizer

    expected = HFTokenizer(str(bert_files), context_length=256)(TEXTS).numpy()
    np.testing.assert_array_equal(tokenize.Tokenizer(bert_files, rule="biomedclip")(TEXTS), expected)


def test_cxr_bert_ids_are_hi_mls(bert_files):
    from health_multimodal.text.data.io import TextInput
    from transformers import BertTokenizer

    reference = BertTokenizer(str(bert_files / "vocab.txt"), do_lower_case=True)
    reference.batch_encode_plus = lambda batch_text_or_text_pairs, **options: reference(batch_text_or_text_pairs, **options)
    source, tokenizer = TextInput(reference), tokenize.Tokenizer(bert_files, rule="cxr_bert")
    texts = [*TEXTS, "seen [MASK]."]
    expected = source.tokenize_input_prompts(texts, verbose=False)["input_ids"].numpy()
    np.testing.assert_array_equal(tokenizer(texts, length=expected.shape[1]), expected)
    for word in ("[SEP]", "[CLS]", "[PAD]", "[UNK]"):
        with pytest.raises(ValueError, match="special token"):
            source.tokenize_input_prompts(f"a {word}", verbose=False)
        with pytest.raises(Exception, match="special token"):
            tokenizer([f"a {word}"])
