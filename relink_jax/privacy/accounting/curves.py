"""Curves behind one epsilon: over steps, over false-positive rates, and the Gaussian approximation that is no bound."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.privacy.accounting.events import build_event
from relink_jax.privacy.accounting.mechanism import Mechanism
from relink_jax.privacy.accounting.pricing import PLD_GRID, accountant_of, is_private, pld_grid, price, quiet

_CLT_MU = 10.0
_LOSSES = 256


def epsilon_over_steps(mechanism: Mechanism, delta: float, points: int | Sequence[int] = 12) -> list[tuple[int, float | None, float | None]]:
    """Returns (steps, RDP epsilon, PLD epsilon) as training goes on, at one delta; the last is the whole run.

    Args:
        points: how many numbers of steps, spread evenly up to the run's, or the numbers themselves.
    """
    wanted: Sequence[int] = points if not isinstance(points, int) else sorted({max(1, round(mechanism.iterations * (i + 1) / points)) for i in range(points)})
    rows: list[tuple[int, float | None, float | None]] = []
    for steps in wanted:
        share = mechanism.overflow_delta * steps / max(1, mechanism.iterations)
        found = price(dataclasses.replace(mechanism, iterations=int(steps), overflow_delta=share), delta)
        rows.append((int(steps), found.rdp, found.pld))
    return rows


def trade_off(event: Any, relation: str, alphas: Sequence[float], overflow: float = 0.0) -> list[float]:
    """Returns the least false-negative rate beta of any membership test at each false-positive rate alpha (Dong, Roth & Su 2019, arXiv 1905.02383).

    f(alpha) = sup over epsilon of max(0, 1 - delta(epsilon) - e^epsilon alpha, e^-epsilon (1 - delta(epsilon) - alpha)), with delta(epsilon) by
    PLD. A finite set of epsilons and PLD's rounding both lower f, so no test does better than the curve.

    Args:
        event: of the PLD view, from `build_event`.
        overflow: part of delta that batches above a cap cost; raises every delta(epsilon).
    """
    rates = np.asarray(alphas, np.float64)
    if not is_private(event):
        perfect = type(event).__name__ == "NoOpDpEvent"
        return [float(value) for value in (1 - rates if perfect else np.zeros_like(rates))]
    losses, deltas = delta_curve(event, relation)
    spent = np.minimum(1.0, deltas + overflow)[:, None]
    grow = np.exp(losses)[:, None]
    bounds = np.maximum(1 - spent - grow * rates, (1 - spent - rates) / grow)
    return [float(value) for value in np.clip(bounds.max(axis=0), 0.0, 1.0)]


def delta_curve(event: Any, relation: str, points: int = _LOSSES) -> tuple[np.ndarray, np.ndarray]:
    """Returns (epsilons [K], delta(epsilon) [K]) by PLD, from 0 to the epsilon at delta 1e-12."""
    with quiet():
        accountant = accountant_of(event, "pld", relation, pld_grid(event, PLD_GRID))
        largest = min(float(accountant.get_epsilon(1e-12)), 700.0)
        losses = largest * np.linspace(0, 1, points) ** 2
        return losses, np.asarray(accountant.get_delta(losses), np.float64)


def gaussian_trade_off(mu: float, alphas: Sequence[float]) -> list[float]:
    """Returns the trade-off curve of mu-Gaussian DP: Phi(Phi^-1(1 - alpha) - mu)."""
    from statistics import NormalDist

    normal = NormalDist()
    inner = [alpha for alpha in alphas if 0 < alpha < 1]
    found = {alpha: normal.cdf(normal.inv_cdf(1 - alpha) - mu) for alpha in inner}
    return [found.get(alpha, 1.0 if alpha <= 0 else 0.0) for alpha in alphas]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Returns the exact epsilon at `delta` of mu-Gaussian DP (Balle & Wang 2018, arXiv 1805.06530); 0 for mu = 0."""
    import dp_accounting

    return 0.0 if mu <= 0 else float(dp_accounting.get_epsilon_gaussian(1 / mu, delta))


def gaussian_mu(mechanism: Mechanism) -> float | None:
    """Returns the central-limit mu of a mechanism (Bu et al. 2019, arXiv 1911.11607), an approximation; None without noise or without data."""
    if not is_private(build_event(mechanism, "pld")):
        return None
    q, steps = float(mechanism.sampling_probability), mechanism.iterations
    exponent = min(mechanism.noise_multiplier**-2, 100.0)
    return math.sqrt(steps) / mechanism.noise_multiplier if q == 1 else q * math.sqrt(steps * math.expm1(exponent))


def gaussian_clt(mechanism: Mechanism, delta: float) -> float | None:
    """Returns the central-limit (Gaussian DP) epsilon, an approximation and never a bound; None without a guarantee or far from the limit.

    It understates where the noise exceeds the sensitivity and can overstate below; a Gaussian parameter above 10 is not reported.
    """
    mu = gaussian_mu(mechanism)
    return None if mu is None or mu > _CLT_MU else gaussian_epsilon(mu, delta)
