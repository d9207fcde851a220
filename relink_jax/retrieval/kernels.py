"""A counting pass whose tiles of scores are never written: the kernels, where they may run, and what a pass does with them.

A kernel fuses the product with all that is asked of a tile: `kernels_tpu`, or `kernels_hopper` on NVIDIA's Hopper. Its results are those of
`tally`, but its scores, as those of any product, have bits of their own; so thresholds come from it too (`own_scores`), and so do the scores of
lists: after the last tile the groups that a list needs are gathered and multiplied again in the same shape. Each of them must then reach exactly
the maximum that was seen in its tile (`doubt`); a list of which that is not true is not settled, and is made again by the plain pass.

Pallas' Triton backend is never used: every kernel names its compiler by its parameters, and a platform without a kernel has none. Pallas takes
long to import, so it is imported where a kernel is used.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from relink_jax import errors
from relink_jax.retrieval import packed, tally, toplists
from relink_jax.retrieval.layout import ALWAYS, AUTO
from relink_jax.retrieval.product import BF16, BF16X3, FLOAT32
from relink_jax.retrieval.sides import Images, Studies, Wanted
from relink_jax.runtime import mesh as meshes

LONGEST = 128  # lists for which gathering is worth it
HOPPER = "hopper"  # GPUs of compute capability 9; their tensor cores multiply no float32
PRECISIONS = {"tpu": (FLOAT32, BF16X3, BF16), HOPPER: (BF16X3, BF16), "cpu": (FLOAT32, BF16X3, BF16)}  # on a CPU the TPU's form is interpreted, for tests
FASTER: dict[tuple[str, str], float] = {}  # (kind of device, precision): measured speed over the plain pass's; nothing has been measured yet


def platform_of(device: Any) -> str:
    """Returns the platform of a jax device as kernels know it: "hopper" for GPUs of compute capability 9, else jax's own name."""
    capability = str(getattr(device, "compute_capability", ""))
    return HOPPER if device.platform == "gpu" and capability.split(".")[0] == "9" else str(device.platform)


def supports(wanted: Wanted, platform: str) -> bool:
    """Returns whether a kernel computes what is wanted on a platform, see `platform_of`."""
    return wanted.precision in PRECISIONS.get(platform, ()) and not wanted.within and wanted.k <= LONGEST


def chosen(mesh: Mesh, wanted: Wanted, asked: str = AUTO) -> bool:
    """Returns whether the devices of a mesh use a kernel: never, where it has been measured to be faster, or always; not for lists within limits.

    Raises: UsageError: always, and there is none for what is wanted.
    """
    device = mesh.devices.flat[0]
    platform = platform_of(device)
    supported = supports(wanted, platform)
    if asked != ALWAYS or wanted.within:
        return asked == AUTO and supported and FASTER.get((device.device_kind, wanted.precision), 0.0) > 1.0
    if not supported:
        given = f"{wanted.precision}, lists of {wanted.k} on {platform}"
        here = f"one of {', '.join(PRECISIONS[platform])} and lists of at most {LONGEST}" if platform in PRECISIONS else f"a device of {', '.join(PRECISIONS)}"
        raise errors.UsageError(errors.describe("no kernel", "counting pass", here, given))
    return True


def count(images: Images, studies: Studies, state: jax.Array, wanted: Wanted) -> tuple[jax.Array, toplists.Kept | None, jax.Array]:
    """Returns what the plain pass over every tile does, see `sweep`: counts of images, kept groups, counts of studies.

    The kept groups are the k best of all tiles, as if of one tile: [1, R, k, GROUP].
    """
    form = _form()

    def one_tile(state: jax.Array, given: tuple[jax.Array, Studies]) -> tuple[jax.Array, Any]:
        index, tile = given
        maxima, found, given_studies = form.tile_counts(images, tile, wanted, interpret=_interpreted())
        if given_studies is not None:
            state = tally.add_studies(state, index, given_studies, images.block, wanted)
        return state, (found, _best(maxima, tile.first, wanted.k) if wanted.k else None)

    state, (found, best) = lax.scan(one_tile, state, (jnp.arange(len(studies.study), dtype=jnp.int32), studies))
    kept = _scored(images, studies, best, wanted.k) if wanted.k else None
    return tally.by_block(found, studies.block[:, 0], wanted), kept, state


def doubt(kept: toplists.Kept) -> jax.Array:
    """Returns +inf [R] where one of the groups [R, n] does not reach the maximum that was seen in its tile, else -inf."""
    same = jnp.max(kept.scores, axis=2) == kept.best
    return jnp.where(jnp.all(same, axis=1), -jnp.inf, jnp.inf)


@functools.lru_cache(maxsize=8)
def own_scores(mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
    """Returns what `product.own_scores` does, with the bits of the kernel."""
    form = _form()
    rows = PartitionSpec(meshes.DATA)

    def local(images: jax.Array, reports: jax.Array) -> jax.Array:
        flat = (side.reshape(-1, images.shape[2]) for side in (images, reports.swapaxes(1, 2)))
        return form.pair_scores(*flat, interpret=_interpreted())[:, 0].reshape(images.shape[:2])

    shared = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows), out_specs=rows, check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))


def _best(maxima: jax.Array, first: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns (maxima, numbers) [R, n] of the best groups of a tile, k or all of them."""
    best, where = lax.top_k(maxima, min(k, maxima.shape[1]))
    return best, where + first // packed.GROUP


def _scored(images: Images, studies: Studies, groups: tuple[jax.Array, jax.Array], k: int) -> toplists.Kept:
    """Returns the k best of groups (maxima, numbers) [n_tiles, R, n], in order of place where they are equal, with their scores computed again."""
    form = _form()
    joined, numbers = (jnp.moveaxis(part, 0, 1).reshape(len(images.study), -1) for part in groups)
    best, where = lax.top_k(joined, min(k, joined.shape[1]))
    group = jnp.take_along_axis(numbers, where, axis=1)
    per_tile = studies.study.shape[1] // packed.GROUP
    here = group - studies.first[0] // packed.GROUP
    size = (1, studies.vectors.shape[1], packed.GROUP)

    def one_rank(number: jax.Array) -> jax.Array:
        """Returns the scores [R, GROUP] of one group [R] per image."""
        tile, column = number // per_tile, number % per_tile * packed.GROUP
        taken = jax.vmap(lambda t, c: lax.dynamic_slice(studies.vectors, (t, 0, c), size)[0].T)(tile, column)
        scores = form.pair_scores(images.vectors, taken.reshape(-1, size[1]), interpret=_interpreted())
        real = studies.study.reshape(-1, packed.GROUP)[number] >= 0
        return jnp.where(real, scores, -jnp.inf)

    scores = lax.map(one_rank, here.T)
    return toplists.Kept(best[None], group[None], jnp.moveaxis(scores, 0, 1)[None], jnp.full((1, len(best)), -jnp.inf))


def _form() -> ModuleType:
    """Returns the kernels of the devices of this process."""
    if jax.default_backend() == "gpu":
        from relink_jax.retrieval import kernels_hopper

        return kernels_hopper
    from relink_jax.retrieval import kernels_tpu

    return kernels_tpu


def _interpreted() -> bool:
    return jax.default_backend() == "cpu"
