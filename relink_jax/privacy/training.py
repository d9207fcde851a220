"""DP-SGD on projection heads of every form from cached features (Abadi et al. 2016, arXiv 1607.00133), encoders frozen.

Each step draws privacy units by Poisson sampling, sums their clipped gradients, adds Gaussian noise once, divides by the public expected batch
size and hands the result to an optax optimizer. Only the heads after the last step leave; losses on private data, gradient norms and realised
batch sizes are never computed for display, returned or logged.

The ledger is written before the first step and charged before each stretch of steps is computed; the state of every stretch commits with an
entry of the ledger. A run that is killed goes on from the last committed state with the draws it would have made (`randomness`), and ends with
the same heads; steps that were charged stay charged.

Design note: the heads are small, so training is one program on one device; with several processes every one runs the same program.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relink_jax import errors, heads
from relink_jax.privacy import arguments, banks, noise, randomness, sampling, selftest, training_state
from relink_jax.privacy import clipping as clip
from relink_jax.privacy import design as designs
from relink_jax.privacy import ledger as ledgers
from relink_jax.privacy.options import Options
from relink_jax.runtime import progress, stopping
from relink_jax.store import checkpoints, digests

DEFAULT = Options()
_STEPPING = ("optimizer", "schedule", "learning_rate", "iterations", "expected_batch_size", "stay_within")  # what a step is compiled for


@dataclasses.dataclass(frozen=True)
class TrainedHeads:
    """The heads after the last step (NumPy, float32) and their privacy ledger (JSON-ready)."""

    heads: heads.Heads
    ledger: dict[str, Any]


def train_heads(
    initial: heads.Heads,
    records: clip.Records,
    pair_unit: np.ndarray,
    public: banks.PublicBank | None,
    options: Options = DEFAULT,
    *,
    ledger_path: pathlib.Path | None = None,
    dataset: Mapping[str, Any] | None = None,
) -> TrainedHeads:
    """Returns heads trained with differential privacy from `initial`, with the ledger of what that spent.

    Sensitivity: blanking one unit (zero-out) moves each clipped sum by at most `objective.sensitivity('zero_out', C)`.
    Private: `records` and which unit owns which pair. Public: everything else, including the numbers of units and pairs.

    Args:
        initial: public starting heads of any form, see `heads`.
        records: image features [N, F_i] or maps [N, P, F_i], text features [N, F_t] of the same pairs (repeated where pairs share a report),
            and labels where the objective reads them.
        pair_unit: int [N], index of the unit (patient or study) that owns each pair; ignored when the unit is a pair.
        public: bank of public vectors; None for objectives that compare with none.
        ledger_path: where `privacy_ledger.json` lies, with the state of an unfinished run beside it; None keeps both in memory.
        dataset: public description of the cohort for the ledger (name, split, site, synthetic); no identifiers.

    Raises:
        DataError: arrays of wrong shape or length, or initial heads that are not finite.
        UsageError: options at odds with the data, `dataset` fields that the ledger fills itself, or a step size at which the heads stop
            being finite.
        UnsoundError: a private anchor bank, or a failed self-test.
        StoreError: an unwritable ledger, a damaged one already there, or the state of a run on other records.
        StoppedError: asked to, after a state that the next run goes on from.
    """
    arguments.check_arrays(initial, records, pair_unit, public, options.objective)
    arguments.check_dataset(dataset or {})
    if options.data and public is not None:
        public.refuse_private(records.texts)
    initial = jax.tree.map(lambda array: np.asarray(array, np.float32), initial)
    run = _Run(initial, pair_unit, public, options)
    passed = run.self_test(records)
    planned = run.planned(public, dataset or {})
    with ledgers.opened(ledger_path, planned) as ledger:
        return run.train(records, ledger, ledger_path, passed)


class _Run:
    """One run's mechanism: everything that is public about it, and its steps."""

    def __init__(self, initial: heads.Heads, pair_unit: np.ndarray, public: banks.PublicBank | None, options: Options) -> None:
        self._initial, self._options = initial, options
        self._units = sampling.unit_index(pair_unit, options.unit)
        self._design = designs.design(options, int(self._units.max()) + 1)
        self._public: Any = None if public is None else public.arrays()
        self._start, self._fixed = heads.partition(initial)
        self._transformation = options.transformation()
        self._move = _Move(Options(**{name: getattr(options, name) for name in _STEPPING}))

    def self_test(self, records: clip.Records) -> str:
        """Returns what `selftest.check` finds of this objective on these heads; no private row is read."""
        like = clip.Records(*(None if one is None else jax.ShapeDtypeStruct(np.shape(one), np.float32) for one in records))
        settings: dict[str, Any] = {"l2_norm_clip": self._options.l2_norm_clip, "implementation": self._options.clipping}
        return selftest.check(self._design.objective, self._initial, like, self._public, **settings)

    def planned(self, public: banks.PublicBank | None, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the ledger holds before the first step."""
        options, design = self._options, self._design
        return ledgers.planned(
            objective=design.objective,
            bank=public,
            mechanism=design.mechanism,
            unit=options.unit,
            n_units=design.n_units,
            n_records=len(self._units),
            pairs_per_unit=design.pairs_per_unit,
            l2_norm_clip=options.l2_norm_clip,
            implementation=options.clipping,
            expected_batch_size=options.expected_batch_size,
            physical_cap=design.cap,
            target_epsilon=options.target_epsilon if options.noise_multiplier is None else None,
            delta=options.target_delta,
            rng_mode=options.mode,
            optimizer={
                "name": options.optimizer,
                "learning_rate": options.learning_rate,
                "schedule": options.schedule,
                "stay_within": options.stay_within,
            },
            n_parameters=sum(np.size(leaf) for leaf in jax.tree.leaves(self._start)),
            initial_heads_sha256=checkpoints.tree_digest(self._initial),
            device={"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "processes": jax.process_count()},
            dataset=dataset,
            selection={"tuned": options.tuned, "n_trials": options.n_trials, "public_tuning_data": options.public_tuning_data},
        )

    def train(self, records: clip.Records, ledger: ledgers.Ledger, ledger_path: pathlib.Path | None, passed: str) -> TrainedHeads:
        """Runs every step that is left, and releases the heads."""
        options = self._options
        directory = None if ledger_path is None else ledger_path.parent
        deviation = self._design.mechanism.noise_stddev
        state, record_digest = self._begun(records, ledger, directory)
        total = (
            functools.partial(self._sum, records, sampling.PoissonSampler(self._units, self._design.mechanism.sampling_probability, state.secret))
            if options.data
            else self._nothing
        )
        shown = progress.bar(options.iterations, "train heads" if options.data else "noise only", "steps", first=state.step)
        with shown as bar:
            while state.step < options.iterations:
                until = min(options.iterations, state.step + options.every)
                ledger.charge(until)
                for step in range(state.step, until):
                    key, draws = state.secret.key(randomness.NOISE, step), noise.DRAWS[options.mode]
                    given = (state.params, state.optimizer, self._start)
                    params, optimizer = noise.add_noise(total(step, state.params), deviation, key, draws, self._move, *given)
                    state = dataclasses.replace(state, step=step + 1, params=params, optimizer=optimizer)
                    bar.update(1)
                if directory is not None and state.step < options.iterations:
                    self._commit(state, ledger, directory, record_digest)
                    stopping.check_here("train heads")
        final = heads.combine(noise.released(jax.tree.map(np.asarray, state.params), options.mode), self._fixed)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(final)):
            raise errors.UsageError(errors.describe("learning_rate", "mechanism", "one at which the heads stay finite", f"{options.learning_rate:g}"))
        ledger.release([{"artifact": "heads", "sha256": checkpoints.tree_digest(final), "step": options.iterations}], passed)
        if directory is not None:
            training_state.keep_only(directory, None)
        return TrainedHeads(final, ledger.document())

    def _begun(self, records: clip.Records, ledger: ledgers.Ledger, directory: pathlib.Path | None) -> tuple[training_state.State, str]:
        """Returns the state to go on from, committed, and the digest of the private records: a fresh one, or that of an interrupted run."""
        params = jax.tree.map(jnp.asarray, self._start)
        optimizer = self._transformation.init(params)
        if directory is None:
            return training_state.State(0, params, optimizer, randomness.fresh(self._options.test_seed)), ""
        digest = _digest(records, self._units)
        committed = ledger.resumable
        if committed is not None:
            state = training_state.load(directory, *committed, (params, optimizer), digest)
            progress.notice(f"training goes on from step {state.step} of {self._options.iterations}, with the draws it would have made")
            return state, digest
        training_state.keep_only(directory, None)
        state = training_state.State(0, params, optimizer, randomness.fresh(self._options.test_seed))
        self._commit(state, ledger, directory, digest)
        return state, digest

    def _commit(self, state: training_state.State, ledger: ledgers.Ledger, directory: pathlib.Path, records_sha256: str) -> None:
        """Saves a state, then the ledger's word for it, then removes older ones; a kill in between leaves the older one valid."""
        ledger.checkpoint(state.step, training_state.save(directory, state, records_sha256))
        training_state.keep_only(directory, state.step)

    def _sum(self, records: clip.Records, sampler: sampling.PoissonSampler, step: int, params: Any) -> Any:
        """Returns the sum of clipped gradients of one step; the only reader of private rows."""
        options, design = self._options, self._design
        if design.capped:
            found = [sampler.capped(step, design.cap)]
        elif design.objective.decomposition == "per_group":
            found = [sampler.grouped(step, *sampling.group_shape(options.expected_batch_size, options.group_size))]
        else:
            found = sampling.blocks(sampler.averaged(step, design.pairs_per_unit), design.cap)
        whole = heads.combine(params, self._fixed)
        settings: dict[str, Any] = {
            "l2_norm_clip": options.l2_norm_clip,
            "implementation": options.clipping,
            "chunk": options.chunk,
            "relation": designs.RELATION,
        }
        total = functools.reduce(clip.add, (clip.clipped_sum(design.objective, whole, records, batch, self._public, **settings) for batch in found))
        return self._checked(total)

    def _nothing(self, step: int, params: Any) -> Any:
        whole = heads.combine(params, self._fixed)
        return self._checked(clip.zero_sum(self._design.objective, whole, l2_norm_clip=self._options.l2_norm_clip, relation=designs.RELATION))

    def _checked(self, total: clip.ClippedSum) -> Any:
        """Returns the sum's value when it carries the sensitivity that the noise was made for; `UnsoundError` otherwise."""
        made, found = self._design.mechanism, (total.sensitivity, total.relation)
        if made.bounded and found != (made.sensitivity, made.relation):
            raise errors.UnsoundError(errors.describe("sensitivity", "clipped sum", f"{made.sensitivity:g} ({made.relation})", f"{found[0]:g} ({found[1]})"))
        return total.value


@dataclasses.dataclass(frozen=True)
class _Move:
    """What is done with a noisy sum, as a function that programs are compiled for once per options."""

    options: Options

    def __call__(self, noisy_sum: Any, params: Any, state: Any, initial: Any) -> tuple[Any, Any]:
        """Returns heads and optimizer state after one step on noisy sum / expected batch size, projected back where that is asked for."""
        mean = jax.tree.map(lambda leaf: leaf / np.float32(self.options.expected_batch_size), noisy_sum)
        updates, state = self.options.transformation().update(mean, state, params)
        moved = optax.apply_updates(params, updates)
        if not self.options.stay_within:
            return moved, state
        away = jax.tree.map(jnp.subtract, moved, initial)
        reach = self.options.stay_within * optax.global_norm(initial)
        factor = jnp.minimum(1.0, reach / jnp.maximum(optax.global_norm(away), jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda start, distance: start + factor * distance, initial, away), state


def _digest(records: clip.Records, units: np.ndarray) -> str:
    """Returns the SHA-256 of the private records, which stays in the private state."""
    arrays = {name: np.asarray(array) for name, array in records._asdict().items() if array is not None}
    return digests.arrays_digest(arrays | {"units": units})
