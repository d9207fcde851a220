"""Plain float64 NumPy readings of the transformer towers over Flax parameter names, one sample and one head at a time.

A mutant is the same reading under a changed spec or changed parameters.
"""

import copy
from typing import Any

import numpy as np
import tiny_clip
from random_params import dense, layer_norm

from relink_jax.encoders import specs

ACTS = {"quick_gelu": tiny_clip.quick_gelu, "gelu": tiny_clip.gelu, "gelu_tanh": tiny_clip.gelu_tanh}
Tree = dict[str, Any]


def changed(params: Tree, path: str, value: Any) -> Tree:
    """A copy whose entry at 'a/b/c' is `value`, or what `value` makes of it."""
    tree = copy.deepcopy(params)
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
        node = node[parent]
    node[name] = value(node[name]) if callable(value) else value
    return tree


def swapped(params: Tree, path: str) -> Tree:
    """A copy with query and key projections exchanged."""
    return changed(params, path, lambda node: {**node, "q_proj": node["k_proj"], "k_proj": node["q_proj"]})


def biases(params: Tree, prefix: str = "") -> list[str]:
    """Paths of every bias."""
    return [
        found
        for name, node in params.items()
        for found in ([prefix + name] if name == "bias" else biases(node, f"{prefix}{name}/") if isinstance(node, dict) else [])
    ]


def attention(p: Tree, x: np.ndarray, heads: int, allowed: np.ndarray | None = None, queries: np.ndarray | None = None) -> np.ndarray:
    query = dense(x if queries is None else queries, p["q_proj"])
    key, value = dense(x, p["k_proj"]), dense(x, p["v_proj"])
    return dense(tiny_clip.attend(query, key, value, heads, allowed), p["out_proj"])


def mlp(p: Tree, stack: specs.StackSpec, x: np.ndarray) -> np.ndarray:
    return dense(ACTS[stack.act](dense(x, p["fc1"])), p["fc2"])


def pre_norm_stack(p: Tree, stack: specs.StackSpec, x: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    for index in range(stack.layers):
        block = p[f"block_{index}"]
        x = x + attention(block["self_attn"], layer_norm(x, block["layer_norm1"], stack.epsilon), stack.heads, allowed)
        x = x + mlp(block, stack, layer_norm(x, block["layer_norm2"], stack.epsilon))
    return x


def image(spec: specs.VitSpec, p: Tree, pixels: np.ndarray) -> np.ndarray:
    """Features [F] of pixels [H, W, C]; beside the tower's pools there are 'first', 'mean' and 'raw' (the probe before the last LayerNorm)."""
    stack, size = spec.stack, spec.patch_size
    corners = range(0, spec.image_size, size)
    patches = [np.einsum("hwc,hwco->o", pixels[top : top + size, left : left + size], p["patch_embedding"]["kernel"]) for top in corners for left in corners]
    x = np.stack(patches) + p["patch_embedding"].get("bias", 0)
    x = (np.concatenate([p["class_embedding"][None], x]) if spec.class_token else x) + p["position_embedding"]
    if spec.pre_norm:
        x = layer_norm(x, p["pre_layernorm"], stack.epsilon)
    x = pre_norm_stack(p["encoder"], stack, x)
    x = x if spec.pool == "raw" else layer_norm(x, p["post_layernorm"], stack.epsilon)
    if spec.pool in ("probe", "raw"):
        return attention(p["probe_attn"], x, stack.heads, queries=p["probe"][None])[0]
    return x.mean(0) if spec.pool == "mean" else x[0]


def text(spec: specs.TextSpec, p: Tree, ids: np.ndarray) -> np.ndarray:
    """Features [F] of ids [L]; beside the tower's pools there are 'first' and 'mean'."""
    x = p["token_embedding"][ids] + p["position_embedding"][: len(ids)]
    x = pre_norm_stack(p["encoder"], spec.stack, x, np.tri(len(ids), dtype=bool) if spec.causal else None)
    x = layer_norm(x, p["final_layer_norm"], spec.stack.epsilon)
    return {"eos": lambda: x[list(ids).index(spec.eos_token_id)], "last": lambda: x[-1], "first": lambda: x[0], "mean": lambda: x.mean(0)}[spec.pool]()


def bert(spec: specs.BertSpec, p: Tree, ids: np.ndarray) -> np.ndarray:
    """Features [F] of ids [L]; beside the tower's pools there are wrong readings of each."""
    stack, seen = spec.stack, ids != spec.pad_id
    x = layer_norm(p["word_embedding"][ids] + p["position_embedding"][: len(ids)] + p["type_embedding"][0], p["embedding_norm"], stack.epsilon)
    states = [x]
    for index in range(stack.layers):
        block = p[f"block_{index}"]
        x = layer_norm(x + attention(block["self_attn"], x, stack.heads, np.tile(seen, (len(ids), 1))), block["attention_norm"], stack.epsilon)
        x = layer_norm(x + mlp(block, stack, x), block["output_norm"], stack.epsilon)
        states.append(x)
    real = np.flatnonzero(ids != 0)
    return {
        "cls": lambda: x[0],
        "sep": lambda: x[real[-1]],
        "three_layers": lambda: np.mean([states[index].mean(0) for index in (1, 2, -1)], axis=0),
        "last_four": lambda: sum(state[real].sum(0) for state in states[-4:]) / len(ids),
        "last": lambda: x[-1],
        "mean": lambda: x[real].mean(0),
        "three_layers, masked": lambda: np.mean([states[index][real].mean(0) for index in (1, 2, -1)], axis=0),
        "three_layers, from embeddings": lambda: np.mean([states[index].mean(0) for index in (0, 1, -1)], axis=0),
        "last_four, of all positions": lambda: sum(state.mean(0) for state in states[-4:]),
        "last_four, by count": lambda: sum(state[real].mean(0) for state in states[-4:]),
        "last_three": lambda: sum(state[real].sum(0) for state in states[-3:]) / len(ids),
    }[spec.pool]()
