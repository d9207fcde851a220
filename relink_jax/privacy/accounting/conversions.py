"""What an (epsilon, delta) means in other words; each says whether it is exact or a bound."""

import math

from relink_jax import errors


def membership_advantage(epsilon: float, delta: float) -> float:
    """Returns the largest true-positive minus false-positive rate of any membership test: (e^eps - 1 + 2 delta)/(e^eps + 1)."""
    return 1.0 if epsilon > 700 else (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1)


def posterior(prior: float, epsilon: float, delta: float) -> float:
    """Returns a bound on an attacker's mean belief that a unit was used, when it was and the belief began at `prior`.

    An (epsilon, delta) mechanism tells no more than one that shows the truth with probability delta and otherwise shifts the odds by at
    most e^epsilon (Kairouz, Oh & Viswanath 2015, arXiv 1311.0776), hence delta + (1 - delta) p e^eps / (1 - p + p e^eps).

    Raises: UsageError: a prior outside 0 to 1.
    """
    if not 0 <= prior <= 1:
        raise errors.UsageError(errors.describe("prior", "conversion", "a probability from 0 to 1", f"{prior:g}"))
    if prior == 0:
        return 0.0
    believed = prior / (prior + (1 - prior) * math.exp(-min(epsilon, 700.0)))
    return delta + (1 - delta) * believed


def replace_one_bound(epsilon: float, delta: float) -> tuple[float, float]:
    """Returns (2 epsilon, (1 + e^epsilon) delta): what any add/remove guarantee implies for replacing one unit, as a bound.

    Exchanging a unit is removing it and adding another. Recomputing the event under replace-one by PLD is exact and smaller.
    """
    return 2 * epsilon, min(1.0, (1 + math.exp(min(epsilon, 700.0))) * delta)
