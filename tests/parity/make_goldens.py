"""Writes tests/goldens/phantom-3-specialist.npz: what transformers' CLIP (torch, float32) makes of fixed inputs.

`python tests/parity/make_goldens.py` after the packaged models were made again; needs the `convert` extra.
"""

import pathlib
import sys

import numpy as np

from relink_jax.encoders import preprocess, zoo

MODEL = "phantom-3-specialist"
PATH = pathlib.Path(__file__).resolve().parent.parent / "goldens" / f"{MODEL}.npz"
TEXTS = (
    "Small left pleural effusion. The heart is normal in size. Small left pleural effusion.",
    "Moderate cardiomegaly. Right Port-A-Cath catheter in place. No pneumothorax. Moderate cardiomegaly, right port catheter.",
    "No acute cardiopulmonary process.",
    "Unheard-of words, zebra crossing, 12.5 mm; again and again. " * 12,
)


def reference(model, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Features before the heads and unit-norm embeddings of pixels [B, C, H, W] and ids [B, L] under a torch CLIPModel."""
    import torch

    with torch.no_grad():
        image = model.vision_model(pixel_values=torch.from_numpy(pixels).to(model.logit_scale.dtype)).pooler_output
        text = model.text_model(input_ids=torch.from_numpy(ids.astype(np.int64))).pooler_output
        projected = {"image": model.visual_projection(image), "text": model.text_projection(text)}
    found = {"image_features": image.numpy(), "text_features": text.numpy()}
    for side, value in projected.items():
        found[f"{side}_embeddings"] = (value / value.norm(dim=-1, keepdim=True)).numpy()
    return found


def make() -> dict[str, np.ndarray]:
    """The golden arrays, from the reference library alone."""
    from PIL import Image
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    directory = str(zoo.get_vlm(MODEL).directory)
    model = CLIPModel.from_pretrained(directory, local_files_only=True, dtype="float32").eval()
    draw = np.random.default_rng(0)
    coarse = draw.random((4, 9, 11))
    grey = np.stack([preprocess.to_uint8(np.kron(picture, np.ones((12, 10)))) for picture in coarse])
    processor = CLIPImageProcessorPil.from_pretrained(directory)
    pixels = np.stack([np.asarray(processor(Image.fromarray(picture), return_tensors="np")["pixel_values"])[0] for picture in grey])
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    length = model.config.text_config.max_position_embeddings
    ids = np.asarray(tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=length)["input_ids"], np.int32)
    return {"grey": grey, "pixels": pixels, "ids": ids, **reference(model, pixels, ids)}


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, **make())
    print(f"{PATH.name}: {PATH.stat().st_size:,} bytes", file=sys.stderr)
