"""Checks of the arrays and descriptions that `training.train_heads` is given, made before anything is computed or written."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy.banks import PublicBank
from relink_jax.privacy.clipping import Records
from relink_jax.privacy.options import BANKED

_OWN_FIELDS = ("n_records_declared", "n_units_declared", "n_is_public", "unit", "pairs_per_unit_per_step")


def check_arrays(initial: heads.Heads, records: Records, pair_unit: Any, public: PublicBank | None, objective: str) -> None:
    """Raises `DataError` for heads that are not finite or give two widths, or arrays whose shapes do not fit them; `UsageError` for a bank too few or many."""
    if (public is not None) != (objective in BANKED):
        expected = "one" if objective in BANKED else "none"
        raise errors.UsageError(errors.describe("public bank", f"objective {objective!r}", expected, "none" if public is None else "one"))
    if set(initial) != set(heads.SIDES):
        raise errors.DataError(errors.describe("heads", "training input", f"sides {list(heads.SIDES)}", f"{sorted(initial)}"))
    if not jax.tree.leaves(heads.partition(initial)[0]):
        raise errors.DataError(errors.describe("heads", "training input", "a head with something to train", "none on either side"))
    widths = {}
    for side, features in zip(heads.SIDES, (records.images, records.texts), strict=True):
        if any(not np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(initial[side])):
            raise errors.DataError(errors.describe(f"{side} head", "training input", "finite float32 entries", "NaN or infinity"))
        if len(features) != len(pair_unit):
            raise errors.DataError(errors.describe(f"{side} features", "training input", f"{len(pair_unit)} rows, one per pair", f"{len(features)}"))
        widths[side] = _width(initial[side], np.shape(features), f"{side} features")
    if widths["image"] != widths["text"]:
        raise errors.DataError(errors.describe("heads", "training input", "one embedding width", f"{list(widths.values())}"))
    for side, rows in () if public is None else (("text", public.features), ("image", public.image_features)):
        if rows is not None:
            _width(initial[side], np.shape(rows), f"{side} anchor features")


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a cohort description that JSON cannot hold or that sets a field the ledger fills itself."""
    clashing = sorted(set(dataset) & set(_OWN_FIELDS))
    if clashing:
        raise errors.UsageError(errors.describe("dataset", "ledger", "a description without the fields the ledger fills itself", f"{clashing}"))
    if not isinstance(dataset.get("name", "unnamed"), str):
        raise errors.UsageError(errors.describe("dataset name", "ledger", "a text", type(dataset["name"]).__name__))
    try:
        json.dumps(dict(dataset), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise errors.UsageError(errors.describe("dataset", "ledger", "values that JSON can hold", type(error).__name__)) from error


def _width(head: dict[str, Any], shape: tuple[int, ...], what: str) -> int:
    """Returns the embedding width D that a head gives features of `shape`; `DataError` where they do not go through it."""
    if not 2 <= len(shape) <= 3:
        raise errors.DataError(errors.describe(what, "training input", "shape [N, F], or [N, P, F] for a patch head", str(shape)))
    try:
        return int(jax.eval_shape(lambda rows: heads.project(head, rows), jax.ShapeDtypeStruct((1, *shape[1:]), np.float32)).shape[-1])
    except TypeError as error:
        raise errors.DataError(errors.describe(what, "training input", "parameters that fit each other and the features", str(shape))) from error
