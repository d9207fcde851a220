"""The plan of training heads: what it spends, the noise, and what a step on stand-ins holds on the device and takes."""

import dataclasses
import statistics
from typing import Any

import jax
import numpy as np

from relink_jax import config as config_lib
from relink_jax.encoders import cost, specs, towers
from relink_jax.privacy import banks, clipping, design, options
from relink_jax.runtime import plan, timing
from relink_jax.stages import context, heads, plan_heads, plan_sizes
from relink_jax.store import checkpoints
from relink_jax.store import workdir as workdir_lib

_ROUNDS = 3  # timed steps


def planned(config: config_lib.RunConfig, run: plan_sizes.Run, found: workdir_lib.Workdir | None, root: str, timed: bool) -> plan.Plan:
    """Returns the plan of training the heads of the mitigated model.

    Args: found: the workdir whose ledgers are read, None for none. root: directory that is written to. timed: whether to time a few steps here.
    Raises: UsageError: a mechanism that does not fit these numbers. StoreError: a damaged ledger.
    """
    mechanism = config.heads.mechanism
    batch = f"{mechanism.expected_batch_size:,}" if mechanism.expected_batch_size else "a third of the units, at most 256"
    lines = [
        plan.Line("epsilon to be spent", *plan_heads.to_spend(found, config)),
        plan.Line("epsilon spent already", *plan_heads.spent(found, config)),
        plan.Line("noisy steps", f"{mechanism.iterations:,}", f"expected batch {batch}, clip {mechanism.l2_norm_clip:g}"),
    ]
    spec = plan_heads.mitigated(config, run)
    if spec is None:
        return plan.Plan([plan.Line("model", config.mitigate or "none", "nothing is trained: no model to mitigate, or an ensemble"), *lines])
    lines.insert(0, plan.Line("model", spec.name, f"arms {', '.join(context.arms_of(config, config.mitigate))}"))
    lines.append(plan.Line("training pairs", f"{run.pairs:,}", f"of {run.units:,} units, from {run.source}"))
    if run.units > 1:
        step = _step(config, run, spec)
        q = float(step.design.mechanism.sampling_probability)
        noise = step.design.mechanism.noise_stddev / mechanism.l2_norm_clip
        lines.append(plan.Line("noise", f"{noise:.4g} x clip", f"sampling probability {q:.4g}, calibrated by {mechanism.accountant}"))
        lines += _program(step, timed, config)
    return plan.Plan(lines, plan_heads.needs(config, run, spec, root))


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step on stand-ins: its design, heads, records that take no memory, the batch that all of them make, and the public bank."""

    design: design.Design
    params: Any
    records: clipping.Records
    batch: clipping.Batch
    public: banks.Public
    clip: float

    def call(self) -> Any:
        """Computes the clipped sum of a step."""
        return clipping.clipped_sum(self.design.objective, self.params, self.records, self.batch, self.public, l2_norm_clip=self.clip).value


def _step(config: config_lib.RunConfig, run: plan_sizes.Run, spec: specs.VLMSpec) -> _Step:
    mechanism = config.heads.mechanism
    fields = heads.resolved(dataclasses.replace(mechanism, learning_rate=mechanism.learning_rate or 1.0), {}, run.units)
    made = design.design(options.Options(**fields), run.units)
    shapes, features = towers.head_shapes(spec), {side: one.features for side, one in cost.of(spec, parameters=False).items()}
    params = {side: checkpoints.unflatten({path: np.full(shape, 0.01, np.float32) for path, shape in paths.items()}) for side, paths in shapes.items()}
    size = fields["expected_batch_size"] * made.pairs_per_unit
    stand_in = {side: np.broadcast_to(np.float32(0.1), (size, *features[side])) for side in features}
    rows = np.arange(size, dtype=np.int32).reshape(-1, made.pairs_per_unit)
    batch = clipping.Batch(rows, np.full(rows.shape, 1 / made.pairs_per_unit, np.float32))
    public = banks.Public(jax.numpy.full((config.embed.anchors, *features["text"]), 0.1))
    return _Step(made, params, clipping.Records(stand_in["image"], stand_in["text"]), batch, public, mechanism.l2_norm_clip)


def _program(step: _Step, timed: bool, config: config_lib.RunConfig) -> list[plan.Line]:
    """Returns what a step holds and takes, for the objectives that compare one record with the bank of anchors."""
    if config.heads.mechanism.objective not in ("align", "anchor_infonce", "anchor_sigmoid"):
        return [plan.Line("step", "not compiled", f"objective {config.heads.mechanism.objective} is planned by its noise alone")]
    lowered = clipping.lowered(step.design.objective, step.params, step.records, step.batch, step.public, l2_norm_clip=step.clip)
    told = lowered.compile().memory_analysis()
    held = 0 if told is None else told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    lines = [plan.Line("memory of the device", plan.human(held, "B"), "of the compiled clipped sum, one block of units at a time")]
    if not timed:
        return [*lines, plan.Line("time", "not probed", "left out with --notimed; without it a few steps are timed here")]
    (spent_here,) = timing.alternating([step.call], _ROUNDS)
    seconds = statistics.median(spent_here) * config.heads.mechanism.iterations
    return [*lines, plan.Line("time", plan.duration(seconds), "of the clipped sums of one arm on data, at the speed of a few steps timed just now")]
