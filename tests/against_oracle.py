"""A converted checkpoint against an oracle's outputs in float64: specs from the oracle's plain geometry, comparison, mutants.

Imports no torch: the parity tests hand over a live oracle's arrays, the default tests those stored under `tests/goldens/`.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relink_jax import heads as heads_lib
from relink_jax.encoders import blocks, convert, resnet, specs, towers

TESTS = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-9
SIDES = ("image", "text")
Tree = dict[str, Any]
Outputs = dict[str, np.ndarray]


def spec_of(directory: pathlib.Path, family: str, geometry: Mapping[str, Any]) -> specs.VLMSpec:
    """Returns the spec of a checkpoint from an oracle's geometry, with the checkpoint's own preprocessing."""
    built = {side: _tower(geometry[side]) for side in SIDES}
    return specs.VLMSpec(name=family, directory=directory, **{**geometry, **built})


def _tower(geometry: Mapping[str, Any]) -> Any:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in geometry.items() if name != "kind"}
    if "stack" in fields:
        fields["stack"] = specs.StackSpec(**fields["stack"])
    return getattr(specs, geometry["kind"])(**fields)


def tree_of(converted: convert.Converted) -> Tree:
    """Returns {'image', 'text', 'heads'} of a conversion in float64; to be called with x64 enabled."""
    tree = {**converted.params, "heads": converted.heads}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def run(spec: specs.VLMSpec, tree: Tree, pixels: np.ndarray, ids: np.ndarray, prior: np.ndarray | None = None, *, compiled: bool = True) -> Outputs:
    """Returns block outputs, features and unit-norm embeddings under the names of `oracles.core.Oracle`.

    Compilation pays where one spec meets many parameters; without it, what a test patched is seen.
    """
    images = [jnp.asarray(array, jnp.float64) for array in (pixels, prior) if array is not None]
    found = (_compiled if compiled else _outputs)(spec, tree, images, jnp.asarray(ids))
    return {name: np.asarray(value) for name, value in found.items()}


def _outputs(spec: specs.VLMSpec, tree: Tree, images: list[jax.Array], ids: jax.Array) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = {}
    for side, tower, inputs in (("image", towers.image_tower(spec), images), ("text", towers.text_tower(spec), [ids])):
        features, state = tower.apply({"params": tree[side]}, *inputs, capture_intermediates=_is_block, mutable=["intermediates"])
        for number, value in enumerate(_blocks(spec, side, state["intermediates"]) if len(inputs) == 1 else []):
            found[f"{side}_block_{number}"] = value
        found[f"{side}_features"] = features
        found[f"{side}_embeddings"] = heads_lib.project(tree["heads"][side], features)
    return found


_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling is all the time there is to save
_compiled = jax.jit(_outputs, static_argnums=0, compiler_options=_QUICK)


def _is_block(module: Any, method: str) -> bool:
    return method == "__call__" and str(module.name).startswith(("block_", "stage_"))


def _blocks(spec: specs.VLMSpec, side: str, seen: Mapping[str, Any]) -> list[jax.Array]:
    tower = getattr(spec, side)
    if isinstance(tower, specs.ResNetSpec):
        paths = [(f"stage_{stage + 1}",) for stage in range(len(tower.blocks))]
    elif isinstance(tower, specs.SwinSpec):
        paths = [(f"stage_{stage}", f"block_{block}") for stage, depth in enumerate(tower.blocks) for block in range(depth)]
    else:
        inside = () if isinstance(tower, specs.BertSpec) else ("encoder",)
        paths = [(*inside, f"block_{layer}") for layer in range(tower.stack.layers)]
    return [_at(seen, (*path, "__call__"))[0] for path in paths]


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def differences(found: Outputs, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the largest absolute difference of every output; infinite for what is missing, not finite or of another size."""
    names = [name for name in expected if not name.endswith("_projected")]
    result = {}
    for name in names:
        ours, theirs = found.get(name), np.asarray(expected[name])
        comparable = ours is not None and ours.size == theirs.size and bool(np.isfinite(ours).all())
        result[name] = float(np.abs(ours.reshape(theirs.shape) - theirs).max()) if comparable else np.inf
    return result


def worst(found: Outputs, expected: Mapping[str, np.ndarray]) -> float:
    """Returns the largest of `differences`."""
    return max(differences(found, expected).values())


def with_tower(spec: specs.VLMSpec, side: str, **changes: Any) -> specs.VLMSpec:
    """Returns the spec with other fields of one tower; `act`, `epsilon` and `heads` reach into its stack where it has one."""
    tower = getattr(spec, side)
    deep = {name: value for name, value in changes.items() if hasattr(tower, "stack") and name in ("act", "epsilon", "heads")}
    shallow = {name: value for name, value in changes.items() if name not in deep}
    if deep:
        shallow["stack"] = dataclasses.replace(tower.stack, **deep)
    return dataclasses.replace(spec, **{side: dataclasses.replace(tower, **shallow)})


def paths(tree: Tree) -> list[str]:
    """Returns the path of every leaf, in the order of `changed`."""
    return ["/".join(str(entry.key) for entry in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def changed(tree: Tree, change: Callable[[str, Any], Any]) -> Tree:
    """Returns the tree with `change(path, leaf)` in place of every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: change("/".join(str(entry.key) for entry in path), leaf), tree)


def same_padding(monkeypatch: Any) -> None:
    """Lets every convolution of a ResNet pad as Flax does by default, which is one side more than the other at stride 2 of an even size."""

    def conv(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
        return nn.Conv(features, (kernel, kernel), stride, "SAME", use_bias=False, precision=blocks.PRECISION, name=name)

    monkeypatch.setattr(resnet, "_conv", conv)


def renamed(tree: Tree, first: str, second: str) -> Tree:
    """Returns the tree with every pair of siblings of these two names exchanged."""
    if not isinstance(tree, dict):
        return tree
    swap = {first: second, second: first} if first in tree and second in tree else {}
    return {name: renamed(tree[swap.get(name, name)], first, second) for name in tree}
