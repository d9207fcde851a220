"""Projection heads as plain pytrees: `features -> unit-norm embeddings`.

Heads are `{'image': {'kernel': [F_i, D]}, 'text': {'kernel': [F_t, D]}}` of float32 arrays, so that `vmap(grad)`,
sharding, hashing and storage need no adapter. Heads of this file are bias-free linear maps, CLIP's form
(`visual_projection`, `text_projection`; Radford et al. 2021, arXiv 2103.00020, section 2.3).
"""

import pathlib
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.store import checkpoints, digests, files

Heads: TypeAlias = dict[str, dict[str, Any]]
SIDES = ("image", "text")


def project(head: dict[str, Any], features: Any) -> jax.Array:
    """Returns unit-norm embeddings [N, D] of features [N, F] (or [D] of [F]) under one side's head, float32, HIGHEST precision."""
    projected = jnp.matmul(features, head["kernel"], precision=jax.lax.Precision.HIGHEST)
    return projected / jnp.linalg.norm(projected, axis=-1, keepdims=True)


def random_heads(seed: int, like: Heads) -> Heads:
    """Returns heads of the same shapes with independent normal entries of variance 1/F, as an untrained control."""
    generator = np.random.default_rng(seed)
    return {
        side: {"kernel": (generator.standard_normal(np.shape(like[side]["kernel"])) / np.sqrt(np.shape(like[side]["kernel"])[0])).astype(np.float32)}
        for side in SIDES
    }


def save(directory: pathlib.Path, heads: Heads, card: dict[str, Any]) -> str:
    """Writes `heads.safetensors` and `card.json` (arm, provenance, digest) and returns the digest."""
    flat = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in checkpoints.flatten(heads).items()}
    digest = digests.arrays_digest(flat)
    files.write_with(directory / "heads.safetensors", lambda temporary: safetensors_numpy.save_file(flat, str(temporary)))
    files.write_json(directory / "card.json", {**card, "heads_sha256": digest})
    return digest


def load(directory: pathlib.Path) -> tuple[Heads, dict[str, Any]]:
    """Returns (heads, card) after checking digest, names and shapes.

    Raises: StoreError: missing or unreadable files, or arrays that do not match the card's SHA-256.
    """
    card = files.read_object(directory / "card.json", {"heads_sha256": str}, f"heads '{directory.name}/card.json'")
    path = directory / "heads.safetensors"
    flat = files.read_with(path, safetensors_numpy.load_file, "a whole safetensors file", f"heads '{directory.name}/{path.name}'")
    found = digests.arrays_digest(flat)
    if found != card["heads_sha256"]:
        raise errors.StoreError(errors.describe("heads corrupted", f"heads {directory.name!r}", f"SHA-256 {card['heads_sha256'][:12]}", found[:12]))
    return checkpoints.unflatten(flat), card
