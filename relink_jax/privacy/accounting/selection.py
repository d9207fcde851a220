"""What choosing among several runs costs, and fixed-size batches, both by Renyi DP only."""

import math
from typing import Any

from relink_jax import errors
from relink_jax.privacy.accounting.events import build_event
from relink_jax.privacy.accounting.mechanism import Mechanism
from relink_jax.privacy.accounting.pricing import epsilon_of, is_private, quiet

TRIALS = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}


def tuning_epsilon(mechanism: Mechanism, delta: float, distribution: str, mean_trials: float) -> float | None:
    """Returns the RDP epsilon of releasing the best of a RANDOM number of runs of one mechanism (Papernot & Steinke 2021, arXiv 2110.03620).

    The number of runs must be drawn from the distribution before any is seen and kept secret, and the score that picks the best may depend on the
    private data only through the runs. A fixed number of tries is not covered: compose all of them instead.

    Args:
        distribution: of the number of runs: 'geometric', 'logarithmic' or 'poisson' (a Poisson draw can be no run at all).
        mean_trials: its mean; above 1, at least 1 for Poisson.

    Returns: None where RDP has no bound for the mechanism; infinity without a guarantee; 0 without data.
    Raises: UsageError: another distribution, a mean out of range, or batches with a cap, for which no such bound is known here.
    """
    from dp_accounting import dp_event

    if distribution not in TRIALS:
        found = repr(distribution) + errors.suggest(str(distribution), TRIALS)
        raise errors.UsageError(errors.describe("distribution of trials", "tuning", f"one of {list(TRIALS)}", found))
    if not (1 < mean_trials < math.inf or (mean_trials == 1 and distribution != "logarithmic")):
        raise errors.UsageError(errors.describe("mean number of trials", "tuning", "a finite number above 1", f"{mean_trials:g}"))
    if mechanism.overflow_delta:
        raise errors.UsageError(errors.describe("tuning", "mechanism", "an objective whose batches need no cap", "one that spends delta on its cap"))
    base = build_event(mechanism, "rdp")
    if base is None or not is_private(base):
        return None if base is None else epsilon_of(base, "rdp", mechanism.relation, [delta])[0][0]
    return epsilon_of(dp_event.RepeatAndSelectDpEvent(base, mean_trials, TRIALS[distribution]), "rdp", mechanism.relation, [delta])[0][0]


def fixed_batch_epsilon(mechanism: Mechanism, batch_size: int, n_units: int, delta: float) -> float:
    """Returns the RDP epsilon if every step drew exactly `batch_size` of N units without replacement: replace-one neighbors only.

    The noise counts against the replace-one sensitivity, twice the mechanism's (Wang, Balle & Kasiviswanathan 2019, arXiv 1808.00087).
    For comparison: at the same noise this is several times what Poisson sampling costs.
    """
    import dp_accounting

    plain: Any = build_event(mechanism, "pld")
    if not is_private(plain):
        return epsilon_of(plain, "pld", "replace_one", [delta])[0][0]
    if not 1 <= batch_size <= n_units:
        raise errors.UsageError(errors.describe("batch size", "mechanism", f"1 to the {n_units} privacy units", str(batch_size)))
    gaussian = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier / 2)
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.SampledWithoutReplacementDpEvent(n_units, batch_size, gaussian), mechanism.iterations)
    with quiet():
        return epsilon_of(event, "rdp", "replace_one", [delta])[0][0]
