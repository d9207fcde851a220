"""A tiny random CLIP checkpoint in the published layout, and a plain NumPy reading of the architecture as its oracle."""

import json
import math
import pathlib
import shutil

import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax.encoders import zoo

VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8, "num_channels": 3}
TEXT = {"hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
DIM = 12


def write(directory: pathlib.Path, seed: int = 0, dtype: type = np.float32, vision: dict[str, object] | None = None, **text: object) -> pathlib.Path:
    """Writes a tiny checkpoint (tokenizer of the packaged models) and returns its directory; `vision` and `text` change fields of the config."""
    directory.mkdir(parents=True, exist_ok=True)
    packaged = zoo.get_vlm("phantom-0-untrained").directory
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(packaged / name, directory / name)
    vocabulary = len(json.loads((packaged / "vocab.json").read_text()))
    common = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    config = {
        "model_type": "clip",
        "projection_dim": DIM,
        "vision_config": {**VISION, **common, **(vision or {})},
        "text_config": {**TEXT, **common, "vocab_size": vocabulary, "eos_token_id": vocabulary - 1, **text},
    }
    (directory / "config.json").write_text(json.dumps(config))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3, "rescale_factor": 1 / 255}
    (directory / "preprocessor_config.json").write_text(json.dumps({**sizes, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.25, 0.3, 0.2]}))
    save(directory, {key: array.astype(dtype) for key, array in state(vocabulary, seed).items()})
    return directory


def save(directory: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    safetensors_numpy.save_file(tensors, str(directory / "model.safetensors"), metadata={"format": "pt"})


def load(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors_numpy.load_file(str(directory / "model.safetensors"))


def state(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Random tensors that keep the variance, with random biases and LayerNorm scales, so that every term matters."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {"logit_scale": np.asarray(2.5)}

    def matrix(key: str, *shape: int) -> None:
        tensors[key] = draw.standard_normal(shape) * 1.2 / np.sqrt(np.prod(shape[1:]))

    def vector(key: str, size: int, centre: float = 0.0) -> None:
        tensors[key] = centre + 0.3 * draw.standard_normal(size)

    def norm(key: str, size: int) -> None:
        vector(f"{key}.weight", size, 1.0)
        vector(f"{key}.bias", size)

    for tower, sizes in (("vision_model", VISION), ("text_model", TEXT)):
        width, hidden = sizes["hidden_size"], sizes["intermediate_size"]
        for layer in range(sizes["num_hidden_layers"]):
            prefix = f"{tower}.encoder.layers.{layer}"
            for part in ("q", "k", "v", "out"):
                matrix(f"{prefix}.self_attn.{part}_proj.weight", width, width)
                vector(f"{prefix}.self_attn.{part}_proj.bias", width)
            norm(f"{prefix}.layer_norm1", width)
            norm(f"{prefix}.layer_norm2", width)
            matrix(f"{prefix}.mlp.fc1.weight", hidden, width)
            vector(f"{prefix}.mlp.fc1.bias", hidden)
            matrix(f"{prefix}.mlp.fc2.weight", width, hidden)
            vector(f"{prefix}.mlp.fc2.bias", width)
    width, patch = VISION["hidden_size"], VISION["patch_size"]
    vector("vision_model.embeddings.class_embedding", width)
    matrix("vision_model.embeddings.patch_embedding.weight", width, 3, patch, patch)
    tensors["vision_model.embeddings.position_embedding.weight"] = 0.5 * draw.standard_normal(((VISION["image_size"] // patch) ** 2 + 1, width))
    norm("vision_model.pre_layrnorm", width)
    norm("vision_model.post_layernorm", width)
    tensors["text_model.embeddings.token_embedding.weight"] = draw.standard_normal((vocabulary, TEXT["hidden_size"]))
    tensors["text_model.embeddings.position_embedding.weight"] = 0.5 * draw.standard_normal((TEXT["max_position_embeddings"], TEXT["hidden_size"]))
    norm("text_model.final_layer_norm", TEXT["hidden_size"])
    matrix("visual_projection.weight", DIM, VISION["hidden_size"])
    matrix("text_projection.weight", DIM, TEXT["hidden_size"])
    return tensors


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.702 * x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """What queries [L, W] gather from keys and values [M, W], head by head; `allowed` [L, M]."""
    depth, gathered = query.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * depth, (head + 1) * depth)
        scores = query[:, part] @ key[:, part].T / np.sqrt(depth)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        gathered.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    return np.concatenate(gathered, -1)


class Oracle:
    """CLIP in float64 NumPy, one sample and one head at a time; `act` and `epsilon` can be mutated."""

    def __init__(self, tensors: dict[str, np.ndarray], act=quick_gelu, epsilon: float = 1e-5) -> None:
        self.tensors = {key: array.astype(np.float64) for key, array in tensors.items()}
        self.act, self.epsilon = act, epsilon

    def norm(self, x: np.ndarray, key: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        return scaled * self.tensors[f"{key}.weight"] + self.tensors[f"{key}.bias"]

    def linear(self, x: np.ndarray, key: str) -> np.ndarray:
        return x @ self.tensors[f"{key}.weight"].T + self.tensors[f"{key}.bias"]

    def stack(self, x: np.ndarray, tower: str, sizes: dict[str, int], causal: bool) -> np.ndarray:
        allowed = np.tri(len(x), dtype=bool) if causal else None
        for layer in range(sizes["num_hidden_layers"]):
            prefix = f"{tower}.encoder.layers.{layer}"
            normed = self.norm(x, f"{prefix}.layer_norm1")
            query, key, value = (self.linear(normed, f"{prefix}.self_attn.{part}_proj") for part in "qkv")
            x = x + self.linear(attend(query, key, value, sizes["num_attention_heads"], allowed), f"{prefix}.self_attn.out_proj")
            hidden = self.act(self.linear(self.norm(x, f"{prefix}.layer_norm2"), f"{prefix}.mlp.fc1"))
            x = x + self.linear(hidden, f"{prefix}.mlp.fc2")
        return x

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Features [F] of pixels [H, W, 3]."""
        patch, side = VISION["patch_size"], VISION["image_size"]
        kernel = self.tensors["vision_model.embeddings.patch_embedding.weight"]
        tokens = [self.tensors["vision_model.embeddings.class_embedding"]]
        for top in range(0, side, patch):
            for left in range(0, side, patch):
                tokens.append(np.einsum("ochw,hwc->o", kernel, pixels[top : top + patch, left : left + patch]))
        x = np.stack(tokens) + self.tensors["vision_model.embeddings.position_embedding.weight"]
        x = self.stack(self.norm(x, "vision_model.pre_layrnorm"), "vision_model", VISION, causal=False)
        return self.norm(x[0], "vision_model.post_layernorm")

    def text(self, ids: np.ndarray, pooled: int) -> np.ndarray:
        """Features [F] of ids [L] at position `pooled`."""
        x = self.tensors["text_model.embeddings.token_embedding.weight"][ids] + self.tensors["text_model.embeddings.position_embedding.weight"][: len(ids)]
        return self.norm(self.stack(x, "text_model", TEXT, causal=True), "text_model.final_layer_norm")[pooled]
