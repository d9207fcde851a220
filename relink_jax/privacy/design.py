"""From options and the public number of units to the mechanism: objective, sampling, noise; nothing private is looked at."""

import dataclasses
import math

from relink_jax.privacy import accounting, noise, objectives, sampling
from relink_jax.privacy.ledger_claims import RELATION
from relink_jax.privacy.options import Options

__all__ = ["RELATION", "Design", "design"]


@dataclasses.dataclass(frozen=True)
class Design:
    """A mechanism before it runs.

    Attributes:
        mechanism: what its guarantee depends on; `noise_stddev` is on the clipped sum.
        n_units, cap: units there are, and units of one physical batch. pairs_per_unit: pairs whose gradients are averaged, 1 for groups and pairs.
    """

    objective: objectives.Objective
    mechanism: accounting.Mechanism
    n_units: int
    cap: int
    pairs_per_unit: int

    @property
    def capped(self) -> bool:
        """Whether all units of a step must stand in one batch of at most `cap`."""
        return self.objective.decomposition in ("per_pair", "none")


def design(options: Options, n_units: int) -> Design:
    """Returns the design of a run on `n_units` units, with its noise calibrated unless the options give a multiplier.

    Raises: UsageError: options that do not fit each other or that many units, or a privacy target out of reach.
    """
    q = sampling.sampling_probability(options.expected_batch_size, n_units)
    cap = sampling.physical_cap(options.expected_batch_size, n_units)
    chosen = objectives.get_objective(
        options.objective, options.temperature, bias=options.bias, batch_cap=cap, group_size=options.group_size, allow_unsound=options.allow_unsound
    )
    averaged = chosen.decomposition == "per_record" and options.unit != "pair"
    overflow = accounting.overflow_delta(q, n_units, cap, options.iterations) if chosen.decomposition == "per_pair" else 0.0
    multiplier = options.noise_multiplier
    if multiplier is None:
        multiplier = accounting.calibrate(
            q, options.iterations, options.target_epsilon, options.target_delta, accountant=options.accountant, overflow_delta=overflow
        )
    sensitivity = chosen.sensitivity(RELATION, options.l2_norm_clip)
    mechanism = accounting.Mechanism(
        q,
        noise.stddev(multiplier, chosen.noise_scale(options.l2_norm_clip)),
        sensitivity,
        options.iterations,
        RELATION,
        options.data,
        disclosed=options.test_seed is not None,
        bounded=math.isfinite(sensitivity),
        overflow_delta=overflow,
        n_units=n_units,
        batch_cap=cap if overflow else None,
    )
    return Design(chosen, mechanism, n_units, cap, options.pairs_per_unit if averaged else 1)
