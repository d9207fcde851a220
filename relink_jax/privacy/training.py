"""DP-SGD on linear projection heads from cached features (Abadi et al. 2016, arXiv 1607.00133), encoders frozen.

Each step draws privacy units by Poisson sampling, sums their clipped gradients, adds Gaussian noise once, divides by the public
expected batch size and hands the result to an optax optimizer. Only the heads after the last step leave; losses on private data,
gradient norms and realised batch sizes are never computed for display, returned or logged.

Design note: arguments that change the guarantee are keyword arguments recorded in the ledger; `clipping` and `chunk` change speed only.
The heads are small and the closed form is three matmuls per step, so training is one program on one device.
"""

import contextlib
import dataclasses
import functools
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relink_jax import errors, heads
from relink_jax.privacy import accounting, arguments, noise, objectives, sampling, selftest
from relink_jax.privacy import clipping as clip
from relink_jax.privacy import ledger as ledgers
from relink_jax.runtime import progress
from relink_jax.store import checkpoints, digests

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {"sgd": optax.sgd, "adam": optax.adam}


@dataclasses.dataclass(frozen=True)
class TrainedHeads:
    """The heads after the last step (NumPy, float32) and their privacy ledger (JSON-ready)."""

    heads: heads.Heads
    ledger: dict[str, Any]


def train_heads(
    initial: heads.Heads,
    image_features: np.ndarray,
    text_features: np.ndarray,
    pair_unit: np.ndarray,
    public: objectives.PublicBank,
    *,
    objective: str = "anchor_infonce",
    unit: str = "patient",
    target_epsilon: float = 0.34,
    target_delta: float = 6e-6,
    l2_norm_clip: float = 1.0,
    expected_batch_size: int = 128,
    iterations: int = 60,
    temperature: float = 0.1,
    learning_rate: float = 0.05,
    optimizer: str = "sgd",
    noise_multiplier: float | None = None,
    data: bool = True,
    clipping: str = "closed_form",
    chunk: int = 256,
    ledger_path: pathlib.Path | None = None,
    dataset: Mapping[str, Any] | None = None,
    tuned: bool | None = None,
    n_trials: int | None = None,
    public_tuning_data: str | None = None,
    test_seed: int | None = None,
) -> TrainedHeads:
    """Returns heads trained with differential privacy from `initial`, with the ledger of what that spent.

    Sensitivity: blanking one unit (zero-out) moves each clipped sum by at most `objective.sensitivity('zero_out', l2_norm_clip)`.
    Private: both feature arrays and which unit owns which pair. Public: everything else, including the numbers of units and pairs.

    Args:
        initial: public starting heads, {'image': {'kernel': [F_i, D]}, 'text': {'kernel': [F_t, D]}}.
        image_features: float32 [N, F_i], one row per training pair.
        text_features: float32 [N, F_t], the text features of the same pairs (repeated where pairs share a report).
        pair_unit: int [N], index of the patient that owns each pair; ignored when `unit` is 'pair'.
        public: anchor bank, features [A, F_t].
        unit: 'patient' (one random own pair of each sampled patient per step) or 'pair'.
        target_epsilon, target_delta: what the noise is calibrated to, by RDP, unless `noise_multiplier` is given.
        noise_multiplier: noise stddev relative to the sensitivity, at least 0.01; 0 trains without privacy and the ledger says so.
        data: false for the noise-only control, which sets every gradient to zero and reads no private row.
        ledger_path: where `privacy_ledger.json` is written before the first step and after the last.
        dataset: public description of the cohort for the ledger (name, split, site, synthetic); no identifiers.
        tuned, n_trials: whether the settings were tuned on private or held-out results, and in how many trials, as the caller declares;
            None is recorded as 'not recorded'. Neither changes epsilon.
        public_tuning_data: what public data the settings were chosen on, for the ledger.
        test_seed: fixes all randomness for tests; the ledger then says 'not private'.

    Raises:
        DataError: arrays of wrong shape or length, or initial heads that are not finite.
        UsageError: an argument out of range, `dataset` fields that the ledger fills itself, or a learning rate at which the heads stop
            being finite.
        UnsoundError: a private anchor bank, or a failed self-test.
        StoreError: an unwritable ledger, or a damaged one already there.
    """
    arguments.check_arrays(initial, image_features, text_features, pair_unit, public)
    arguments.check_choice("optimizer", optimizer, OPTIMIZERS)
    arguments.check_choice("clipping", clipping, clip.IMPLEMENTATIONS)
    arguments.check_number("chunk", chunk, 1, whole=True)
    arguments.check_number("expected_batch_size", expected_batch_size, 1, whole=True)
    arguments.check_number("iterations", iterations, 1, accounting.STEPS, whole=True)
    arguments.check_float32("l2_norm_clip", l2_norm_clip)
    arguments.check_float32("temperature", temperature)
    arguments.check_positive("learning_rate", learning_rate)
    arguments.check_delta(target_delta)
    if noise_multiplier is None:
        arguments.check_positive("target_epsilon", target_epsilon)
    else:
        arguments.check_noise_multiplier(noise_multiplier)
    arguments.check_dataset(dataset or {})
    arguments.check_selection(tuned, n_trials, public_tuning_data)
    iterations, expected_batch_size = int(iterations), int(expected_batch_size)
    target_delta, l2_norm_clip, learning_rate, temperature = float(target_delta), float(l2_norm_clip), float(learning_rate), float(temperature)
    if data:
        public.refuse_private(text_features)
    initial = jax.tree.map(lambda array: np.asarray(array, np.float32), initial)
    chosen = objectives.get_objective(objective, temperature)
    units = sampling.unit_index(pair_unit, unit)
    n_units = int(units.max()) + 1
    q = sampling.sampling_probability(expected_batch_size, n_units)
    rows, fitted = sampling.physical_cap(expected_batch_size, n_units, chunk)
    calibrated = noise_multiplier is None
    multiplier = accounting.calibrate(q, iterations, target_epsilon, target_delta) if noise_multiplier is None else float(noise_multiplier)
    bound = chosen.sensitivity(ledgers.RELATION, l2_norm_clip)
    mechanism = accounting.Mechanism(q, noise.stddev(multiplier, bound), bound, iterations, ledgers.RELATION, data, disclosed=test_seed is not None)
    ledger = ledgers.planned(
        objective=chosen,
        bank=public,
        mechanism=mechanism,
        unit=unit,
        n_units=n_units,
        n_records=len(units),
        l2_norm_clip=l2_norm_clip,
        implementation=clipping,
        expected_batch_size=expected_batch_size,
        physical_cap=rows,
        target_epsilon=float(target_epsilon) if calibrated else None,
        delta=target_delta,
        optimizer={"name": optimizer, "learning_rate": learning_rate},
        n_parameters=sum(np.size(leaf) for leaf in jax.tree.leaves(initial)),
        initial_heads_sha256=checkpoints.tree_digest(initial),
        device={"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "processes": jax.process_count()},
        dataset=dataset or {},
        settings={"temperature": temperature},
        selection={"tuned": tuned, "n_trials": None if n_trials is None else int(n_trials), "public_tuning_data": public_tuning_data},
    )
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), initial)
    bank = jnp.asarray(public.features)
    passed = selftest.check(chosen, params, bank, l2_norm_clip=l2_norm_clip, implementation=clipping)
    token_bytes = secrets.token_bytes if test_seed is None else np.random.default_rng(test_seed).bytes
    total: Callable[[heads.Heads], clip.ClippedSum] = functools.partial(clip.zero_sum, chosen, l2_norm_clip=l2_norm_clip, relation=ledgers.RELATION)
    if data:
        sampler = sampling.PoissonSampler(units, q, token_bytes)
        total = _PrivateSum(chosen, image_features, text_features, bank, sampler, rows, l2_norm_clip, clipping, fitted)
    with _recorded(ledger, ledger_path, passed) as record:
        state, divisor = OPTIMIZERS[optimizer](learning_rate).init(params), np.float32(expected_batch_size)
        for _ in progress.track(range(iterations), iterations, "train heads" if data else "noise only"):
            noisy = noise.add_noise(total(params), multiplier, noise.fresh_key(token_bytes))
            params, state = _step(optimizer, float(learning_rate), params, state, noisy, divisor)
            record.executed += 1
        final = jax.tree.map(np.asarray, params)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(final)):
            raise errors.UsageError(errors.describe("learning_rate", "mechanism", "one at which the heads stay finite", f"{learning_rate:g}"))
        record.released = [{"artifact": "heads", "sha256": checkpoints.tree_digest(final), "step": iterations}]
    return TrainedHeads(final, record.ledger)


class _PrivateSum:
    """Draws the next Poisson batch and sums its clipped gradients under given heads; the only reader of private rows."""

    def __init__(
        self,
        objective: objectives.Objective,
        image_features: np.ndarray,
        text_features: np.ndarray,
        public: jax.Array,
        sampler: sampling.PoissonSampler,
        rows: int,
        l2_norm_clip: float,
        implementation: str,
        chunk: int,
    ) -> None:
        self._objective, self._sampler, self._rows = objective, sampler, rows
        self._arrays = (jnp.asarray(image_features, jnp.float32), jnp.asarray(text_features, jnp.float32))
        self._public = public
        self._settings: dict[str, Any] = {"l2_norm_clip": l2_norm_clip, "implementation": implementation, "chunk": chunk, "relation": ledgers.RELATION}

    def __call__(self, params: heads.Heads) -> clip.ClippedSum:
        blocks = sampling.blocks(self._sampler.sample(), self._rows)
        parts = (clip.clipped_sum(self._objective, params, *self._arrays, index, padding, self._public, **self._settings) for index, padding in blocks)
        return functools.reduce(clip.add, parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(optimizer: str, learning_rate: float, params: heads.Heads, state: Any, noisy_sum: heads.Heads, divisor: Any) -> tuple[heads.Heads, Any]:
    """Returns heads and optimizer state after one step on noisy_sum / expected_batch_size."""
    mean = jax.tree.map(lambda leaf: leaf / divisor, noisy_sum)
    updates, state = OPTIMIZERS[optimizer](learning_rate).update(mean, state, params)
    return optax.apply_updates(params, updates), state


@dataclasses.dataclass
class _Record:
    ledger: dict[str, Any]
    executed: int = 0
    released: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def _recorded(ledger: dict[str, Any], path: pathlib.Path | None, self_test: str) -> Iterator[_Record]:
    """Writes the planned ledger, then the executed one however training ends; nothing is released when it fails."""
    if path is not None:
        ledger = ledgers.carry_earlier(ledger, path)
        ledgers.save(path, ledger)
    record = _Record(ledger)
    try:
        yield record
    finally:
        record.ledger = digests.sealed(ledgers.executed(ledger, record.executed, record.released, self_test))
        if path is not None:
            ledgers.save(path, record.ledger)
