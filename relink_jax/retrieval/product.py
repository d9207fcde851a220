"""Scores of a batch against a tile: the one matrix product of a counting pass, at a named precision.

  float32  every multiplication and addition in float32 (HIGHEST), the reference
  bf16x3   both sides as a sum of two bfloat16 numbers, three of the four products of the halves
  tf32     inputs rounded to 10 fraction bits, as NVIDIA's tensor cores do; on the CPU the same rounding before a float32 product
  bf16     inputs rounded to bfloat16

Inputs are rounded on the host, so that a mode means the same numbers on every device and only the order of float32 additions is left to
it; `band` bounds what both can change. Rounded halves lie side by side in one row, so bf16x3 is one product of width 3 D.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from relink_jax import errors
from relink_jax.runtime import mesh as meshes
from relink_jax.store.rows import RowSource, blocks

FLOAT32, BF16X3, TF32, BF16 = "float32", "bf16x3", "tf32", "bf16"
PRECISIONS = (FLOAT32, BF16X3, TF32, BF16)
_TF32_BITS = 13  # of float32's 23 fraction bits that tf32 drops
_ADDITION = 2.0**-23  # relative error of one float32 addition, rounded in any way
_LEAST = 4e-6  # bands are at least this wide, so that they hold the interval of `tally.DELTA` too


def check(precision: str, mesh: Mesh) -> None:
    """Raises `UsageError` for a precision that is unknown or that the devices of a mesh do not have."""
    if precision not in PRECISIONS:
        expected = f"one of {', '.join(PRECISIONS)}"
        raise errors.UsageError(errors.describe("unknown precision", "counting pass", expected, repr(precision)) + errors.suggest(precision, PRECISIONS))
    platform = mesh.devices.flat[0].platform
    if precision == TF32 and platform == "tpu":
        raise errors.UsageError(errors.describe("precision", "counting pass", "float32, bf16x3 or bf16 on a TPU", precision))


def width(dim: int, precision: str) -> int:
    """Returns the columns of an encoded row of `dim` numbers."""
    return 3 * dim if precision == BF16X3 else dim


def row_bytes(dim: int, precision: str) -> int:
    """Returns bytes of an encoded row of `dim` numbers."""
    return width(dim, precision) * (2 if precision in (BF16X3, BF16) else 4)


def encode(rows: np.ndarray, precision: str, *, candidates: bool = False) -> np.ndarray:
    """Returns float32 rows [n, D] as `product` takes them, [n, width]: queries by default, or candidates."""
    high = _rounded(rows, precision)
    if precision != BF16X3:
        return high
    low = _rounded(rows - high.astype(np.float32), precision)
    return np.concatenate([high, high, low] if candidates else [high, low, high], axis=1)


def _rounded(rows: np.ndarray, precision: str) -> np.ndarray:
    """Returns rows to the nearest numbers of the mode, ties to even: bfloat16, or float32 with tf32's fraction."""
    if precision == FLOAT32:
        return rows
    if precision != TF32:
        return rows.astype(ml_dtypes.bfloat16)
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    half = np.uint32((1 << (_TF32_BITS - 1)) - 1) + ((bits >> np.uint32(_TF32_BITS)) & np.uint32(1))
    return ((bits + half) & ~np.uint32((1 << _TF32_BITS) - 1)).view(np.float32)


def product(left: jax.Array, right: jax.Array, precision: str = FLOAT32) -> jax.Array:
    """Returns scores float32 [R, T] of encoded queries [R, width] and candidates [width, T]."""
    how: Any = lax.Precision.HIGHEST
    if precision == TF32 and jax.default_backend() == "gpu":
        how = lax.DotAlgorithmPreset.TF32_TF32_F32
    elif left.dtype == jnp.bfloat16:
        how = None
    return lax.dot_general(left, right, (((1,), (0,)), ((), ())), precision=how, preferred_element_type=jnp.float32)


def band(queries: RowSource, candidates: tuple[float, float, float], precision: str) -> np.ndarray:
    """Returns a bound of |score of `product` - exact score| of each query against every candidate, float64 [n].

    With x = x' + r the rounding of a row, |x.y - x'.y'| <= |r_x| |y| + |x'| |r_y|, and float32 sums of w products in any order add at most
    w 2^-23 |x'| |y'| (twice the bound of round-to-nearest, since some units truncate). bf16x3 rounds to two halves, and leaves out the
    product of the low ones. Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1.

    Args: queries: float32 [n, D]. candidates: `extent` of the other side.
    """
    norm, rest, low = _norms(queries, precision)
    largest, residual, largest_low = candidates
    additions = width(queries.shape[1], precision) * _ADDITION * (norm + rest) * (largest + residual)
    return np.maximum(rest * largest + (norm + rest) * residual + low * largest_low + additions, _LEAST)


def extent(rows: RowSource, precision: str) -> tuple[float, float, float]:
    """Returns the largest norm of rows [n, D], of what rounding leaves of them, and of their low halves; for `band`."""
    norm, rest, low = (float(part.max(initial=0.0)) for part in _norms(rows, precision))
    return norm, rest, low


def _norms(rows: RowSource, precision: str) -> np.ndarray:
    """Returns float64 [3, n]: norms of rows, of what encoding leaves of them, and of their low halves (0 but for bf16x3)."""
    out = np.zeros((3, len(rows)))
    for block in blocks(rows):
        part = rows[block].astype(np.float64)
        high = _rounded(part.astype(np.float32), precision).astype(np.float64)
        low = _rounded((part - high).astype(np.float32), precision).astype(np.float64) if precision == BF16X3 else np.zeros_like(high)
        out[:, block] = [np.sqrt(np.einsum("nd,nd->n", one, one)) for one in (part, part - high - low, low)]
    return out


@functools.lru_cache(maxsize=8)
def own_scores(mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
    """Returns jitted f(images [n, H, D], own reports [n, D, H]) -> float32 scores [n, H], the diagonals of the products; n shared by the devices.

    The same product as a tile's: a product of rows alone rounds differently, and every duplicate of the right report would then count
    as better or worse by a rounding error. A step verifies that its tiles hold the same bits.
    """
    rows = PartitionSpec(meshes.DATA)
    local = lambda images, reports: lax.map(lambda pair: jnp.diagonal(product(*pair)), (images, reports))  # noqa: E731
    shared = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows), out_specs=rows, check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))


@functools.lru_cache(maxsize=8)
def bare_product(mesh: Mesh, precision: str = FLOAT32) -> Callable[[Any, Any], jax.Array]:
    """Returns jitted f(images [n, H, width], tiles [n_tiles, width, T]) that computes every score, in the products of a step whose devices
    share n, and keeps next to nothing: a step's limit."""

    def local(images: jax.Array, tiles: jax.Array) -> jax.Array:
        def one_tile(seen: jax.Array, tile: jax.Array) -> tuple[jax.Array, None]:
            def one_part(seen: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
                scores = product(part, tile, precision)
                return seen + scores[0, 0] + scores[-1, -1], None

            return lax.scan(one_part, seen, images)[0], None

        return lax.scan(one_tile, jnp.float32(0), tiles)[0][None]

    rows = PartitionSpec(meshes.DATA)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False))
