"""The published layouts, one table each, and how a file's layout is told: by its keys and `model_type`, never by a model's name."""

from collections.abc import Collection

from relink_jax import errors
from relink_jax.encoders.layouts.biovil import BIOVIL_IMAGE, BIOVIL_T_IMAGE, CXR_BERT
from relink_jax.encoders.layouts.hf_clip import FLAX_CLIP, HF_CLIP
from relink_jax.encoders.layouts.hf_siglip import HF_SIGLIP
from relink_jax.encoders.layouts.open_clip import OPEN_CLIP_BERT, OPENAI_CLIP
from relink_jax.encoders.layouts.radiology import CXR_CLIP_RESNET, CXR_CLIP_SWIN, GLORIA, MEDCLIP_RESNET, MEDCLIP_SWIN
from relink_jax.encoders.rules import Layout, listed

LAYOUTS = (
    *(HF_CLIP, FLAX_CLIP, HF_SIGLIP, OPENAI_CLIP, OPEN_CLIP_BERT, BIOVIL_IMAGE, BIOVIL_T_IMAGE, CXR_BERT),
    *(CXR_CLIP_RESNET, CXR_CLIP_SWIN, MEDCLIP_RESNET, MEDCLIP_SWIN, GLORIA),
)


def detect(model_type: str | None, keys: Collection[str], where: str = "checkpoint") -> Layout:
    """Returns the layout of a file with these keys; `model_type` is what `config.json` beside it says, None for no such file.

    Raises: DataError: no layout has these keys (names the nearest ones and the first keys that do not fit), or one that is of another
        `model_type`.
    """
    fitting = [layout for layout in LAYOUTS if layout.fingerprint <= set(keys)]
    most = [layout for layout in fitting if not any(layout.fingerprint < other.fingerprint for other in fitting)]
    if len(most) != 1:
        raise errors.DataError(_unknown(keys, where))
    found = most[0]
    if found.model_type and model_type is not None and model_type != found.model_type:
        raise errors.DataError(errors.describe("model type", f"config.json beside {where}", f"{found.model_type!r}, as its keys say", repr(model_type)))
    return found


def named(name: str) -> Layout:
    """Returns the layout of that name; `StoreError` for a name that no layout has."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise errors.StoreError(errors.describe("unknown layout", "provenance", f"one of {', '.join(layout.name for layout in LAYOUTS)}", repr(name)))


def _unknown(keys: Collection[str], where: str) -> str:
    left = {layout.name: layout.unknown(keys) for layout in LAYOUTS}
    nearest = sorted(left, key=lambda name: len(left[name]))[:3]
    shares = ", ".join(f"{name} ({1 - len(left[name]) / max(1, len(keys)):.0%} of the keys fit)" for name in nearest)
    first = left[nearest[0]]
    lacking = sorted(next(layout for layout in LAYOUTS if layout.name == nearest[0]).fingerprint - set(keys))
    found = f"{len(keys)} keys, not fitting {nearest[0]} {listed(first, 3)}" if first else f"{len(keys)} keys without {', '.join(lacking)}"
    return errors.describe("unknown layout", where, f"a published layout, nearest {shares}", found)
