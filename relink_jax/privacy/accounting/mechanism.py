"""What the guarantee of one run depends on, and the loss of delta where a cap can evict a record."""

import dataclasses
import fractions
import functools
import math

import numpy as np

from relink_jax import errors

RELATIONS = ("add_remove", "zero_out", "replace_one")
VIEWS = ("rdp", "pld")
DELTA_GRID = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
MULTIPLIERS = (1e-2, 1e5)  # nonzero noise multipliers with a price; one full step at the smallest has an epsilon near 5,000
STEPS = 10**7


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """What the guarantee of one training run depends on.

    Attributes:
        sampling_probability: exact inclusion probability q of a unit per step.
        noise_stddev: standard deviation of the noise on the clipped sum.
        sensitivity: add/remove (and zero-out) L2 sensitivity of that sum, as declared by the objective; infinity where it has none.
        iterations: noisy steps.
        relation: neighboring relation of the claim, one of `RELATIONS`.
        data_used: false for the noise-only control, whose output is independent of the private data.
        disclosed: true when the randomness is known (a fixed seed), which voids any guarantee.
        bounded: false for an objective without a bounded sensitivity: no noise protects anyone, epsilon is infinite.
        overflow_delta: part of delta spent on batches above the cap that the sensitivity assumes, see `overflow_delta`.
        truncated_batch: units that a step keeps at most, the rest evicted at random; None where every drawn unit is used. PLD only.
        n_units: public number of units N; needed with `truncated_batch` and `batch_cap`.
        batch_cap: the cap n_max behind `overflow_delta`, from which the same loss is found for a patient with several pairs.
    """

    sampling_probability: fractions.Fraction
    noise_stddev: float
    sensitivity: float
    iterations: int
    relation: str = "add_remove"
    data_used: bool = True
    disclosed: bool = False
    bounded: bool = True
    overflow_delta: float = 0.0
    truncated_batch: int | None = None
    n_units: int | None = None
    batch_cap: int | None = None

    @property
    def noise_multiplier(self) -> float:
        """Noise stddev relative to the add/remove sensitivity; 0 where that is infinite."""
        return self.noise_stddev / self.sensitivity


def relation_factor(relation: str) -> float:
    """Returns how many clip norms a per-record sum moves by: 1 for add_remove and zero_out, 2 for replace_one."""
    if relation not in RELATIONS:
        raise errors.UsageError(
            errors.describe("neighboring relation", "mechanism", f"one of {list(RELATIONS)}", repr(relation)) + errors.suggest(relation, RELATIONS)
        )
    return 2.0 if relation == "replace_one" else 1.0


def remaining_delta(delta: float, overflow: float) -> float:
    """Returns what is left of `delta` for the accountant after `overflow` was spent on batches above a cap.

    Raises: UsageError: nothing is left.
    """
    if not 0 <= overflow < delta:
        expected = f"more than the {overflow:.3g} that batches above the cap cost; raise the cap or delta"
        raise errors.UsageError(errors.describe("delta", "mechanism", expected, f"{delta:g}"))
    return delta - overflow


@functools.lru_cache(maxsize=256)
def overflow_delta(sampling_probability: fractions.Fraction, n_units: int, cap: int, iterations: int, owned: int = 1) -> float:
    """Returns T x P[some step evicts a unit because of one that is added]: what a cap n_max on the batch adds to delta.

    Own derivation. An objective whose sensitivity needs at most `cap` units in a step drops drawn units beyond it, so adding a unit can also
    evict another. Hand the adversary, beside each step's result, which OTHER units were drawn: their coins have one law under both
    neighbors, so this only helps, and by post-processing any bound for it holds for the results alone. Given draws that leave
    room for the unit in every step, nobody is evicted and each step is the Poisson-subsampled Gaussian of the declared sensitivity, whose T-fold
    composition loses delta(epsilon). The other draws have probability at most T x P[Binomial(N - 1, q) >= cap] and lose at most 1 each.
    Hence (epsilon, delta(epsilon) + overflow_delta), in both directions and without a factor e^epsilon.

    Args:
        owned: pairs k of the person whom the bound is for: they fit where the other N - k draws are at most cap - k.

    Returns: at most 1, rounded up; 0 where the cap cannot bind.

    Raises: UsageError: a cap, count or probability out of range.
    """
    q = fractions.Fraction(sampling_probability)
    if not (0 < q <= 1 and 1 <= owned <= n_units and cap >= 1 and iterations >= 0):
        found = f"q {float(q):g}, {n_units} units, cap {cap}, {iterations} iterations, {owned} owned"
        raise errors.UsageError(errors.describe("batch cap", "mechanism", "0 < q <= 1, a cap of at least 1 and at least one unit", found))
    return min(1.0, iterations * binomial_tail(n_units - owned, q, cap - owned + 1))


def binomial_tail(trials: int, probability: fractions.Fraction, at_least: int) -> float:
    """Returns P[Binomial(trials, probability) >= at_least], summed over log terms and rounded up by 1e-8 of itself."""
    if at_least <= 0:
        return 1.0
    if at_least > trials:
        return 0.0
    if probability == 1:
        return 1.0
    yes, no = math.log(probability), math.log1p(-float(probability))
    first = math.lgamma(trials + 1) - math.lgamma(at_least + 1) - math.lgamma(trials - at_least + 1) + at_least * yes + (trials - at_least) * no
    counts = np.arange(at_least, trials, dtype=np.float64)
    terms = np.concatenate([[0.0], np.cumsum(np.log((trials - counts) / (counts + 1)) + (yes - no))])
    largest = float(terms.max())
    return min(1.0, math.exp(first + largest + math.log(float(np.sum(np.exp(terms - largest))))) * (1 + 1e-8))
