"""What a dual encoder is, as frozen data; imports no jax.

Towers are built from these specs and from nothing else; no model has code of its own. Activation and epsilon have no defaults where
published models differ in them: they show in no tensor's shape.
"""

import dataclasses
import json
import pathlib
from typing import Any

from relink_jax import errors

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class StackSpec:
    """Geometry of a pre-LN transformer stack."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    act: str
    epsilon: float

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.mlp_width) < 1 or self.width % self.heads:
            raise errors.DataError(
                errors.describe("tower geometry", "config.json", "positive sizes and a width divisible by the heads", f"width {self.width}, heads {self.heads}")
            )


@dataclasses.dataclass(frozen=True)
class VitSpec:
    """A vision transformer: square images of `image_size` pixels cut into patches of `patch_size`.

    `class_token`: a learned first token. `pre_norm`: LayerNorm between the embeddings and the blocks (CLIP). `patch_bias`: bias of the
    patch convolution. `pool`: 'class' is the class token after the last LayerNorm; 'probe' is what SigLIP's learned probe attends to,
    before the residual MLP that is its head.
    """

    stack: StackSpec
    image_size: int
    patch_size: int
    channels: int = 3
    class_token: bool = True
    pre_norm: bool = True
    patch_bias: bool = False
    pool: str = "class"

    @property
    def positions(self) -> int:
        """Class token, if any, plus patches."""
        return (self.image_size // self.patch_size) ** 2 + self.class_token

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return (self.stack.width,)


@dataclasses.dataclass(frozen=True)
class ResNetSpec:
    """A ResNet v1.5 with bottleneck blocks and frozen batch norm, stage widths `width * 2**stage`, output 4 times that.

    `pool`: 'mean' gives one vector, 'map' the last stage's grid, row by row. `joint_width`: BioViL-T's 1 x 1 map of the grid to that
    width, with the temporal pooler's parameters beside it; 0 for none. `resize`: side to which the model itself upsamples its input
    (bilinear, corners aligned; GLoRIA), 0 for none.
    """

    image_size: int
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    epsilon: float = 1e-5
    pool: str = "mean"
    joint_width: int = 0
    pooler_blocks: int = 3
    pooler_heads: int = 8
    resize: int = 0
    channels: int = 3

    @property
    def grid(self) -> int:
        """Side of the last stage's grid: five halvings, each rounded up."""
        side = self.resize or self.image_size
        for _ in range(2 + len(self.blocks) - 1):
            side = -(-side // 2)
        return side

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one image's features: [F], or [grid * grid, F]."""
        width = self.joint_width or self.width * 4 * 2 ** (len(self.blocks) - 1)
        return (width,) if self.pool == "mean" else (self.grid**2, width)


@dataclasses.dataclass(frozen=True)
class SwinSpec:
    """A Swin transformer: `blocks` and `heads` per stage, width doubling from `width`.

    `pool`: 'mean' over the last grid after the final LayerNorm (MedCLIP), or 'first', its top-left cell (CXR-CLIP takes it for a class
    token; reproduced, not repaired).
    """

    image_size: int
    pool: str
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    width: int = 96
    window: int = 7
    patch_size: int = 4
    mlp_ratio: int = 4
    epsilon: float = 1e-5
    act: str = "gelu"
    channels: int = 3

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return (self.width * 2 ** (len(self.blocks) - 1),)


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """A pre-LN text tower. `causal`: CLIP; otherwise every position sees every other, padding included (SigLIP).

    `pool`: 'eos' is the end-of-text position that `eos_token_id` selects (see `text.eos_position`), 'last' the last position.
    """

    stack: StackSpec
    vocab_size: int
    positions: int
    eos_token_id: int
    causal: bool = True
    pool: str = "eos"

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one text's features."""
        return (self.stack.width,)


@dataclasses.dataclass(frozen=True)
class BertSpec:
    """A post-LN BERT encoder over at most `length` of its `positions`; positions holding `pad_id` are masked.

    `pool`: 'cls' first position of the last layer; 'sep' last unmasked position; 'three_layers' mean over the hidden states after
    layers 1, 2 and the last, each meaned over all positions, padding included (MedCLIP); 'last_four' sum of the last four hidden
    states, summed over unmasked positions and divided by the length (GLoRIA).
    """

    stack: StackSpec
    vocab_size: int
    length: int
    pool: str
    positions: int = 512
    types: int = 2
    pad_id: int = 0

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one text's features."""
        return (self.stack.width,)


ImageSpec = VitSpec | ResNetSpec | SwinSpec
ReportSpec = TextSpec | BertSpec


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What of one clinical dataset a model's training has seen.

    `kind`: none, images, labels, reports or pairs; `split`: which part; `source`: where that is said; `confidence`: stated, inferred
    or unknown.
    """

    dataset: str
    kind: str
    split: str
    source: str
    confidence: str


@dataclasses.dataclass(frozen=True)
class VLMSpec:
    """One dual encoder: where its files lie, what it is, and how far it was specialised to chest radiographs.

    `image_head` and `text_head` name forms of `relink_jax.heads` (linear, affine, mlp, cxr_bert, patch, map, none); `dim` is the joint
    dimension. `recipe` names a preprocessing of `preprocess.RECIPES`, '' for the checkpoint's own `preprocessor_config.json`; `text_rule`
    names a rule of `tokenize.RULES`. `specialisation` is the rung on the ladder (0 = none), -1 when unknown. `sha256` holds the digests that
    the weight files must have, one for each file (each shard of several) in any order, since names are the user's; none where none is known.
    """

    name: str
    directory: pathlib.Path
    image: ImageSpec
    text: ReportSpec
    dim: int
    image_head: str = "linear"
    text_head: str = "linear"
    recipe: str = ""
    text_rule: str = "clip"
    specialisation: int = -1
    description: str = ""
    tier: str = "unknown"
    exposure: tuple[Exposure, ...] = ()
    licence: str = "unknown"
    sha256: tuple[str, ...] = ()

    def bare(self) -> "VLMSpec":
        """Returns what decides a program and nothing else: the spec without name, place, history and digests."""
        told = {field: getattr(VLMSpec, field) for field in ("specialisation", "description", "tier", "exposure", "licence", "sha256")}
        return dataclasses.replace(self, name="", directory=pathlib.Path(), **told)


def read_json(directory: pathlib.Path, name: str = CONFIG) -> dict[str, Any]:
    """Returns a parsed file of a checkpoint directory.

    Raises: DataError: it is missing, or not a JSON object.
    """
    where = f"model directory {directory.name!r}"
    if not (directory / name).is_file():
        raise errors.DataError(errors.describe("file missing", where, f"a JSON file {name}", "none"))
    try:
        config = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.DataError(errors.describe("file unreadable", where, f"a JSON file {name}", type(error).__name__)) from error
    if not isinstance(config, dict):
        raise errors.DataError(errors.describe("file unreadable", where, f"a JSON object in {name}", type(config).__name__))
    return config


def to_json(spec: VLMSpec) -> dict[str, Any]:
    """Returns a spec as JSON-ready values, without its directory."""
    value: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(spec), "directory": ""}))
    return {**value, "image": {"kind": type(spec.image).__name__, **value["image"]}, "text": {"kind": type(spec.text).__name__, **value["text"]}}


def from_json(value: Any, directory: pathlib.Path) -> VLMSpec:
    """Returns the spec that `to_json` described, with its files in `directory`.

    Raises: StoreError: fields that are missing, unknown or of another kind.
    """
    try:
        towers = {side: _tower(value[side]) for side in ("image", "text")}
        exposure = tuple(Exposure(**one) for one in value["exposure"])
        if not isinstance(value["sha256"], list) or not all(isinstance(one, str) for one in value["sha256"]):
            raise TypeError("digests that are none")
        return VLMSpec(**{**value, **towers, "exposure": exposure, "sha256": tuple(value["sha256"]), "directory": directory})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.StoreError(errors.describe("spec damaged", "provenance of a converted model", "the fields of a spec", type(error).__name__)) from error


_TOWERS: dict[str, type] = {one.__name__: one for one in (VitSpec, ResNetSpec, SwinSpec, TextSpec, BertSpec)}


def _tower(value: dict[str, Any]) -> Any:
    fields: dict[str, Any] = {name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items() if name != "kind"}
    if "stack" in fields:
        fields["stack"] = StackSpec(**fields["stack"])
    return _TOWERS[value["kind"]](**fields)
