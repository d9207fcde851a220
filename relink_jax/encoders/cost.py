"""What encoding one image or one text costs, by formula from a tower's spec: arithmetic and parameters, with nothing allocated or run.

Counted are matrix products and convolutions, 2 FLOP for each multiply-add, with every padded token and cell; activations, norms and
softmax add a few percent to that at published sizes. Parameters come from `jax.eval_shape`.
"""

import dataclasses
import functools
import math

from relink_jax.encoders import convert, specs, towers


@dataclasses.dataclass(frozen=True)
class Side:
    """One tower: parameters, FLOP per item (an image, or a text at full length), shape of one item's features."""

    parameters: int
    flop: int
    features: tuple[int, ...]


def of(spec: specs.VLMSpec, prior: bool = False, parameters: bool = True) -> dict[str, Side]:
    """Returns {'image': cost, 'text': cost} of a spec's towers; heads are not among them, since features are taken before the head.

    Args:
        prior: each image is shown beside a prior one, where the model compares images (BioViL-T); features are then as `encoders.embed` says.
        parameters: count them, for which the towers are traced, which takes a second or so; 0 without.
    """
    paired = prior and bool(towers.prior_shape(spec))
    flop = {"image": image_flop(spec.image, paired), "text": text_flop(spec.text)}
    counted = _parameters(spec) if parameters else dict.fromkeys(flop, 0)
    features = {side: getattr(spec, side).features for side in flop}
    if paired:
        features["image"] = (*features["image"][:-1], features["image"][-1] + towers.prior_shape(spec)[0])
    return {side: Side(counted[side], flop[side], features[side]) for side in flop}


@functools.lru_cache(maxsize=32)
def _parameters(spec: specs.VLMSpec) -> dict[str, int]:
    shapes = convert.target_shapes(spec)
    return {side: sum(math.prod(shape) for path, shape in shapes.items() if path.startswith(f"{side}/")) for side in ("image", "text")}


def image_flop(tower: specs.ImageSpec, prior: bool = False) -> int:
    """Returns the FLOP of one image, or of one beside its prior through a ResNet's temporal pooler."""
    if isinstance(tower, specs.VitSpec):
        return 2 * _vit(tower)
    if isinstance(tower, specs.SwinSpec):
        return 2 * _swin(tower)
    pooler = tower.pooler_blocks * _block(2 * tower.grid**2, tower.joint_width, tower.joint_width, 2 * tower.grid**2)
    return 2 * (2 * _resnet(tower) + pooler if prior else _resnet(tower))


def text_flop(tower: specs.ReportSpec) -> int:
    """Returns the FLOP of one text at the tower's full length; a causal mask saves nothing, since every score is computed."""
    return 2 * _stack(tower.stack, tower.length if isinstance(tower, specs.BertSpec) else tower.positions)


def _stack(stack: specs.StackSpec, tokens: int) -> int:
    """Multiply-adds of transformer blocks over `tokens`: four projections, scores and mixing, two layers of the MLP."""
    return stack.layers * _block(tokens, stack.width, stack.mlp_width, tokens)


def _block(tokens: int, width: int, hidden: int, seen: int) -> int:
    return tokens * (4 * width**2 + 2 * seen * width + 2 * width * hidden)


def _vit(tower: specs.VitSpec) -> int:
    width, tokens = tower.stack.width, tower.positions
    patches = (tower.image_size // tower.patch_size) ** 2 * tower.patch_size**2 * tower.channels * width
    probe = 2 * width**2 + 2 * tokens * width**2 + 2 * tokens * width if tower.pool == "probe" else 0
    return patches + _stack(tower.stack, tokens) + probe


def _resnet(tower: specs.ResNetSpec) -> int:
    side = tower.resize or tower.image_size
    total = side * tower.image_size * tower.channels * (tower.image_size + side) if tower.resize else 0
    side = _half(side)
    total += side**2 * 7**2 * tower.channels * tower.width
    side, inputs = _half(side), tower.width
    for stage, depth in enumerate(tower.blocks):
        width = tower.width * 2**stage
        for block in range(depth):
            out = _half(side) if stage and not block else side
            total += side**2 * inputs * width + out**2 * (9 * width**2 + 4 * width**2)
            total += out**2 * inputs * 4 * width if not block else 0
            side, inputs = out, 4 * width
    return total + side**2 * inputs * tower.joint_width


def _swin(tower: specs.SwinSpec) -> int:
    side, width = -(-tower.image_size // tower.patch_size), tower.width
    total = side**2 * tower.patch_size**2 * tower.channels * width
    for stage, depth in enumerate(tower.blocks):
        window = min(tower.window, side)
        cells, padded = side**2, (-(-side // window) * window) ** 2
        total += depth * (padded * (4 * width**2 + 2 * window**2 * width) + 2 * cells * tower.mlp_ratio * width**2)
        if stage < len(tower.blocks) - 1:
            side, width = _half(side), 2 * width
            total += side**2 * 2 * width * width
    return total


def _half(side: int) -> int:
    return -(-side // 2)
