"""Parity at published size: `python tests/parity/published_size.py [FAMILY ...]` prints the table of BENCHMARKS.md; needs torch and transformers.

Each model is built in torch with random weights at the size that was published, saved as its authors save it, converted by
`encoders.convert`, and embeds the same 64 images (normal pixels) and 64 texts (random ids of its vocabulary) in both: torch in float64,
ours in float32 and, as `relink embed --config.embed.precision=bf16` does, in bfloat16. Reported are the largest difference of a unit-norm
embedding's entry and the smallest cosine.
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import against_oracle  # noqa: E402
from oracles import families  # noqa: E402

from relink_jax import heads as heads_lib  # noqa: E402
from relink_jax.encoders import convert, towers  # noqa: E402

convert.check_inputs = lambda spec: None  # ids are drawn, so no tokenizer of published size is needed
FAMILIES = ("clip-hf", "biomedclip", "biovil-t", "cxr-clip-resnet")
COUNT, BATCH = 64, 8


def embed(spec, converted, side: str, inputs: np.ndarray, dtype) -> np.ndarray:
    """Unit-norm float32 embeddings [n, D] of pixels or ids, in batches, from a tower whose weights and pixels are `dtype`."""
    encode = getattr(towers, f"{side}_features")
    params = jax.tree.map(lambda array: jnp.asarray(array, dtype), converted.params[side])
    given = jnp.asarray(inputs, dtype) if side == "image" else inputs
    features = [encode(spec, params, given[i : i + BATCH]).astype(jnp.float32) for i in range(0, len(inputs), BATCH)]
    return np.concatenate([np.asarray(heads_lib.project(converted.heads[side], part)) for part in features])


def measure(family: str) -> list[str]:
    """One line per side of one family."""
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        oracle = families.build(family, pathlib.Path(temporary), 5, "published")
        pixels, ids = oracle.inputs(5, COUNT)
        pixels = pixels.astype(np.float32)
        parts = [oracle.reference(pixels[i : i + BATCH], ids[i : i + BATCH]) for i in range(0, COUNT, BATCH)]
        spec = against_oracle.spec_of(pathlib.Path(temporary), family, oracle.geometry)
        converted = convert.convert(spec)
        for side, inputs in (("image", pixels), ("text", ids.astype(np.int32))):
            expected = np.concatenate([part[f"{side}_embeddings"] for part in parts])
            size = f"{converted.provenance['parameters']:>11,}"
            for name, dtype in (("float32", jnp.float32), ("bf16", jnp.bfloat16)):
                found = embed(spec, converted, side, inputs, dtype).astype(np.float64)
                cosine = np.einsum("nd,nd->n", found, expected) / np.linalg.norm(found, axis=1)
                far = np.abs(found - expected).max()
                lines.append(f"{family:<18} {side:<6} {size} parameters  {name:<8} max difference {far:.1e}  1 - cosine {1 - cosine.min():.1e}")
    return lines


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        for line in measure(name):
            print(line, flush=True)
