"""Checks of everything `training.train_heads` is given, made before anything is computed or written."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import accounting, objectives

_FLOAT32 = (1e-30, 1e30)
_OWN_FIELDS = ("n_records_declared", "n_units_declared", "n_is_public", "unit", "pairs_per_unit_per_step")


def check_arrays(initial: heads.Heads, image_features: Any, text_features: Any, pair_unit: Any, public: objectives.PublicBank) -> None:
    """Raises `DataError` for heads that are not finite 2-D kernels of one width, or arrays whose shapes do not fit them."""
    if set(initial) != set(heads.SIDES) or any(set(initial[side]) != {"kernel"} for side in heads.SIDES):
        raise errors.DataError(errors.describe("heads", "training input", f"sides {list(heads.SIDES)} with one kernel each", f"{sorted(initial)}"))
    for side, features in (("image", image_features), ("text", text_features)):
        kernel = np.shape(initial[side]["kernel"])
        if np.ndim(features) != 2 or len(kernel) != 2 or np.shape(features)[1] != kernel[0]:
            raise errors.DataError(
                errors.describe(f"{side} features", "training input", "shape [N, F] for a head of shape [F, D]", f"{np.shape(features)} and {kernel}")
            )
        if not np.isfinite(np.asarray(initial[side]["kernel"], np.float32)).all():
            raise errors.DataError(errors.describe(f"{side} head", "training input", "finite float32 entries", "NaN or infinity"))
        if len(features) != len(pair_unit):
            raise errors.DataError(errors.describe(f"{side} features", "training input", f"{len(pair_unit)} rows, one per pair", f"{len(features)}"))
    if public.features.shape[1] != np.shape(text_features)[1]:
        raise errors.DataError(
            errors.describe("anchor features", "public bank", f"width {np.shape(text_features)[1]}, as the text features", str(public.features.shape[1]))
        )
    if np.shape(initial["image"]["kernel"])[1] != np.shape(initial["text"]["kernel"])[1]:
        raise errors.DataError(
            errors.describe("heads", "training input", "one embedding width", f"{[np.shape(initial[side]['kernel'])[1] for side in heads.SIDES]}")
        )


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """Raises `UsageError` unless `value` is a number (an integer where `whole`) within [low, high], infinity excluded."""
    kinds: Any = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not (low <= value <= high and abs(value) < math.inf):
        bounds = f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
        expected = ("a whole number" if whole else "a finite number") + (bounds if low > -math.inf else "")
        raise errors.UsageError(errors.describe(name, "mechanism", expected, repr(value)[:40]))


def check_positive(name: str, value: Any) -> None:
    """Raises `UsageError` unless `value` is a positive finite number."""
    check_number(name, value, -math.inf)
    if not value > 0:
        raise errors.UsageError(errors.describe(name, "mechanism", "a positive finite number", f"{value:g}"))


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raises `UsageError` unless `value` is one of the names in `known`."""
    if value not in list(known):
        raise errors.UsageError(errors.describe(name, "mechanism", f"one of {list(known)}", repr(value)[:40]) + errors.suggest(str(value), known))


def check_noise_multiplier(value: Any) -> None:
    """Raises `UsageError` unless `value` is 0 (no privacy) or a multiplier that has a price."""
    check_number("noise_multiplier", value, 0.0, accounting.MULTIPLIERS[1])
    if 0 < value < accounting.MULTIPLIERS[0]:
        expected = f"0, which trains without privacy, or at least {accounting.MULTIPLIERS[0]:g}"
        raise errors.UsageError(errors.describe("noise_multiplier", "mechanism", expected, f"{value:g}"))


def check_delta(value: Any) -> None:
    """Raises `UsageError` unless `value` is strictly between 0 and 1."""
    check_number("target_delta", value, 0.0, 1.0)
    if not 0 < value < 1:
        raise errors.UsageError(errors.describe("target_delta", "mechanism", "a number strictly between 0 and 1", f"{value:g}"))


def check_float32(name: str, value: Any) -> None:
    """Raises `UsageError` unless `value` is positive and far enough from the ends of float32 to be computed with."""
    check_number(name, value, *_FLOAT32)


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


def check_selection(tuned: bool | None, n_trials: int | None, public_tuning_data: str | None) -> None:
    """Raises `UsageError` for a declaration of how settings were chosen that contradicts itself."""
    if n_trials is not None:
        check_number("n_trials", n_trials, 1, whole=True)
    if tuned is not None and not isinstance(tuned, bool):
        raise errors.UsageError(errors.describe("tuned", "selection", "true, false or None for not recorded", repr(tuned)[:40]))
    if n_trials is not None and not tuned and n_trials > 1:
        raise errors.UsageError(errors.describe("n_trials", "selection", "more than one trial only where tuned is true", f"{n_trials} with tuned {tuned}"))
    if public_tuning_data is not None and not (isinstance(public_tuning_data, str) and public_tuning_data.strip()):
        raise errors.UsageError(errors.describe("public_tuning_data", "selection", "a description, or None for not recorded", "another value"))
