"""What a training run is asked for, checked field by field before anything is computed or written."""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import optax

from relink_jax import errors
from relink_jax.privacy import accounting, noise, objectives, sampling

OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "nadam": optax.nadam,
    "rmsprop": optax.rmsprop,
    "adagrad": optax.adagrad,
}
SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda rate, steps: rate,
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": optax.cosine_decay_schedule,
    "warmup_cosine": lambda rate, steps: optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps),
}
PROTOTYPED = ("prototype", "unlink")  # objectives that compare with public prototypes and read labels
BANKED = ("anchor_infonce", "anchor_sigmoid", *PROTOTYPED)  # objectives that compare with public vectors
CLIPPING = ("auto", "closed_form", "vmap")
ACCOUNTANTS = accounting.VIEWS
_FLOAT32 = (1e-30, 1e30)


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one run; those up to `test_seed` are the guarantee's or the optimizer's and go into the ledger, the rest is speed.

    Attributes:
        objective, temperature, bias, group_size, allow_unsound: see `objectives.get_objective`.
        unit: 'patient', 'study' or 'pair'. pairs_per_unit: m, pairs of a drawn unit whose gradients are averaged; 1 for groups and pairs.
        target_epsilon, target_delta: what the noise is calibrated to by `accountant`, unless `noise_multiplier` is given.
        noise_multiplier: noise stddev relative to the sensitivity, at least 0.01; 0 trains without privacy and the ledger says so.
        l2_norm_clip: C. expected_batch_size: B, units. iterations: noisy steps.
        learning_rate, schedule, optimizer: of optax. stay_within: after each step the heads are projected back to this distance from the
            initial ones, in multiples of the initial norm; post-processing, 0 for no limit.
        rng_mode: 'research' or 'careful', see `noise`. test_seed: fixes all randomness for tests; the ledger then says 'not private'.
        data: false for the noise-only control, which sets every gradient to zero and reads no private row.
        tuned, n_trials, public_tuning_data: how the settings were chosen, as the caller declares; None is recorded as 'not recorded'.
        clipping, chunk: see `clipping.clipped_sum`. checkpoint_every: steps between saved states, 0 for ten in a run.

    Raises: UsageError: a field out of range or at odds with another.
    """

    objective: str = "anchor_infonce"
    temperature: float = 0.1
    bias: float = 0.0
    group_size: int = 4
    allow_unsound: bool = False
    unit: str = "patient"
    pairs_per_unit: int = 4
    target_epsilon: float = 0.34
    target_delta: float = 6e-6
    accountant: str = "rdp"
    noise_multiplier: float | None = None
    l2_norm_clip: float = 1.0
    expected_batch_size: int = 128
    iterations: int = 60
    learning_rate: float = 0.05
    schedule: str = "constant"
    optimizer: str = "sgd"
    stay_within: float = 0.0
    rng_mode: str = "careful"
    data: bool = True
    tuned: bool | None = None
    n_trials: int | None = None
    public_tuning_data: str | None = None
    test_seed: int | None = None
    clipping: str = "auto"
    chunk: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("objective", objectives.NAMES),
            ("unit", sampling.UNITS),
            ("accountant", ACCOUNTANTS),
            ("schedule", SCHEDULES),
            ("optimizer", OPTIMIZERS),
            ("rng_mode", noise.MODES),
            ("clipping", CLIPPING),
        ):
            check_choice(name, getattr(self, name), known)
        for name, low, high in (
            ("group_size", 2, math.inf),
            ("pairs_per_unit", 1, 64),
            ("expected_batch_size", 1, math.inf),
            ("iterations", 1, accounting.STEPS),
            ("chunk", 0, math.inf),
            ("checkpoint_every", 0, math.inf),
        ):
            check_number(name, getattr(self, name), low, high, whole=True)
            object.__setattr__(self, name, int(getattr(self, name)))
        check_number("l2_norm_clip", self.l2_norm_clip, *_FLOAT32)
        check_number("temperature", self.temperature, *_FLOAT32)
        check_number("bias", self.bias, -_FLOAT32[1], _FLOAT32[1])
        check_number("stay_within", self.stay_within, 0.0)
        check_positive("learning_rate", self.learning_rate)
        check_delta(self.target_delta)
        if self.noise_multiplier is None:
            check_positive("target_epsilon", self.target_epsilon)
        else:
            check_noise_multiplier(self.noise_multiplier)
        _check_selection(self.tuned, self.n_trials, self.public_tuning_data)
        object.__setattr__(self, "n_trials", None if self.n_trials is None else int(self.n_trials))
        for name in ("l2_norm_clip", "temperature", "bias", "stay_within", "learning_rate", "target_delta", "target_epsilon"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def mode(self) -> str:
        """The RNG mode as executed: a test seed makes it 'test'."""
        return noise.TEST if self.test_seed is not None else self.rng_mode

    @property
    def every(self) -> int:
        """Steps between saved states."""
        return self.checkpoint_every or max(1, -(-self.iterations // 10))

    def transformation(self) -> optax.GradientTransformation:
        """Returns the optimizer with its schedule."""
        return OPTIMIZERS[self.optimizer](SCHEDULES[self.schedule](self.learning_rate, self.iterations))


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


def _check_selection(tuned: bool | None, n_trials: int | None, public_tuning_data: str | None) -> None:
    """Raises `UsageError` for a declaration of how settings were chosen that contradicts itself."""
    if n_trials is not None:
        check_number("n_trials", n_trials, 1, whole=True)
    if tuned is not None and not isinstance(tuned, bool):
        raise errors.UsageError(errors.describe("tuned", "selection", "true, false or None for not recorded", repr(tuned)[:40]))
    if n_trials is not None and not tuned and n_trials > 1:
        raise errors.UsageError(errors.describe("n_trials", "selection", "more than one trial only where tuned is true", f"{n_trials} with tuned {tuned}"))
    if public_tuning_data is not None and not (isinstance(public_tuning_data, str) and public_tuning_data.strip()):
        raise errors.UsageError(errors.describe("public_tuning_data", "selection", "a description, or None for not recorded", "another value"))
