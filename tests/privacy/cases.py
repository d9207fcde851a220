"""Small heads of every form, records and batches for the tests of clipping, and hostile records to break bounds with."""

import jax
import numpy as np

from relink_jax.privacy import banks, clipping, objectives

F, H, D, M, P = 7, 6, 5, 3, 4
OPTIONS = {"batch_cap": 16, "group_size": 3, "allow_unsound": True}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(seed, inputs, outputs, bias=True):
    return {"kernel": draw(seed, inputs, outputs)} | ({"bias": draw(seed + 100, outputs)} if bias else {})


def norm(seed, width):
    return {"scale": 1 + 0.3 * draw(seed, width), "bias": draw(seed + 100, width)}


HEADS = {
    "linear": dense(1, F, D, bias=False),
    "affine": dense(1, F, D),
    "mlp": {"fc1": dense(1, F, H, bias=False), "fc2": dense(2, H, D, bias=False)},
    "cxr_bert": {"dense_to_hidden": dense(1, F, H), "norm": norm(2, H), "dense_to_output": dense(3, H, D)},
    "patch": {"conv1": dense(1, F, H, bias=False), "bn": {**norm(2, H), "mean": draw(3, H), "var": np.exp(draw(4, H))}, "conv2": dense(5, H, D)},
    "map": {"norm": norm(1, F), "fc1": dense(2, F, H), "fc2": dense(3, H, F)},
    "none": {},
}
HEADS["patch_missing"] = {**HEADS["patch"], "missing": draw(6, M)}


def problem(image="linear", text="linear", count=24, wide=None):
    """Returns (heads, records, bank) with an image head of one form and a text head of another, of one embedding width."""
    width = F if image in ("map", "none") else D
    texts = {**HEADS[text]} if width == D or text in ("map", "none") else dense(9, F, F, bias=text == "affine")
    shape = (P if wide is None else wide, F - M if image == "patch_missing" else F) if image.startswith("patch") else (F,)
    records = clipping.Records(draw(50, count, *shape), draw(51, count, F), (draw(52, count, 6) > 0.5).astype(np.float32))
    bank = banks.PublicBank(draw(60, 6, F), "synthetic texts of a test", image_features=draw(61, 4, *shape))
    return {"image": HEADS[image], "text": texts}, records, bank


def batch_for(objective, slots, seed=0, count=24):
    """Returns a batch with `slots` slots a row, some of them filler, as the objective's decomposition wants it."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(count)[: 8 * slots].reshape(8, slots)
    weights = (generator.random(rows.shape) < 0.75).astype(np.float32)
    if objective.decomposition == "per_record":
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    return clipping.Batch(rows, weights)


def single(rows, padding=None):
    """Returns a batch of one pair per unit; `padding` marks filler."""
    rows = np.asarray(rows, np.int32)
    weights = np.ones(len(rows), np.float32) if padding is None else (~np.asarray(padding)).astype(np.float32)
    return clipping.Batch(rows[:, None], weights[:, None])


def vector(clipped):
    """Returns the trained leaves of a clipped sum as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(clipped.value)])


def clipped(objective, heads, records, batch, bank, clip=1.0, **settings):
    """Returns the clipped sum as a vector; an objective by name has temperature 0.4."""
    chosen = objectives.get_objective(objective, 0.4, **OPTIONS) if isinstance(objective, str) else objective
    return vector(clipping.clipped_sum(chosen, heads, records, batch, bank.arrays(), l2_norm_clip=clip, **settings))


def hub(count, width=16, seed=1):
    """Returns (heads, records): identical images, texts in a tight cone far from them, and last a text that points at the images.

    Absent the last record every image has only near ties among its negatives; with it, every row's gradient turns to the hub.
    """
    generator = np.random.default_rng(seed)
    one, cone = generator.standard_normal((2, width))
    images = np.tile(one, (count, 1))
    texts = cone + 0.02 * generator.standard_normal((count, width))
    texts[-1] = one
    heads = {side: {"kernel": np.eye(width, dtype=np.float32)} for side in ("image", "text")}
    return heads, clipping.Records(images.astype(np.float32), texts.astype(np.float32))
