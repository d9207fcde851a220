"""The curves of one run's promise: epsilon against delta, steps and noise, and the trade-off of any test that tries to tell membership.

The trade-off function f(alpha) is the least false negative rate of a test with false positive rate alpha (Dong, Roth & Su 2022), here
from PLD. The Gaussian (mu-GDP) curve beside it is the central-limit approximation and no bound.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from relink_jax.privacy import accounting, compare_flags
from relink_jax.privacy.compare_conversions import shown

STEP_POINTS = 8
NOISE_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
ALPHAS = (0.0, 0.001, 0.003, 0.01, 0.02, 0.05, *(k / 20 for k in range(2, 19)), 0.95, 0.98, 0.99, 1.0)


def curves(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> dict[str, Any] | None:
    """Returns {epsilon_of_delta, over_steps, over_noise, trade_off, gaussian, attacks, noise_needed}; None without data or without a guarantee.

    Points are lists: [delta, rdp, pld], [step, rdp, pld], [noise multiplier, rdp, pld], [alpha, beta]; epsilons None where there is no bound.
    """
    if not ledger["data_used"] or ledger["epsilon"]["infinite"] or mechanism.iterations == 0:
        return None
    delta = ledger["epsilon"]["delta"]
    return {
        "epsilon_of_delta": [[one["delta"], one["rdp"], one["pld"]] for one in ledger["epsilon"]["at_delta"]],
        "over_steps": [[step, shown(rdp), shown(pld)] for step, rdp, pld in accounting.epsilon_over_steps(mechanism, delta, STEP_POINTS)],
        "over_noise": _over_noise(mechanism, delta),
        "trade_off": _trade_off(mechanism),
        "gaussian": _gaussian(mechanism),
        "attacks": _attacks(ledger),
        "noise_needed": _needed(ledger, mechanism),
    }


def _over_noise(mechanism: accounting.Mechanism, delta: float) -> list[list[Any]]:
    points = []
    for factor in NOISE_FACTORS:
        if accounting.MULTIPLIERS[0] <= factor * mechanism.noise_multiplier <= accounting.MULTIPLIERS[1]:
            priced = accounting.price(dataclasses.replace(mechanism, noise_stddev=factor * mechanism.noise_stddev), delta)
            points.append([factor * mechanism.noise_multiplier, shown(priced.rdp), shown(priced.pld)])
    return points


def _trade_off(mechanism: accounting.Mechanism) -> list[list[float]]:
    betas = accounting.trade_off(accounting.build_event(mechanism, "pld"), mechanism.relation, ALPHAS, mechanism.overflow_delta)
    return [[alpha, beta] for alpha, beta in zip(ALPHAS, betas, strict=True)]


def _gaussian(mechanism: accounting.Mechanism) -> dict[str, Any] | None:
    """Returns {mu, points} of the Gaussian trade-off curve that the central limit suggests; None without one, and for replace-one."""
    mu = accounting.gaussian_mu(mechanism) if mechanism.relation != "replace_one" else None
    if mu is None:
        return None
    return {"mu": mu, "points": [[alpha, beta] for alpha, beta in zip(ALPHAS, accounting.gaussian_trade_off(mu, ALPHAS), strict=True)]}


def _needed(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> dict[str, Any]:
    """Returns {epsilon, rdp, pld}: the noise multipliers with which each accountant would state the run's headline epsilon at its delta."""
    recorded = ledger["epsilon"]
    target = next(value for value in (recorded["target"], recorded["rdp"], recorded["pld"]) if value is not None)
    fixed = (mechanism.sampling_probability, mechanism.iterations, target, recorded["delta"])
    plain = mechanism.relation != "replace_one" and mechanism.truncated_batch is None
    found = {view: accounting.calibrate(*fixed, view, mechanism.overflow_delta) if plain else None for view in accounting.VIEWS}
    return {"epsilon": target, **found}


def _attacks(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the measured (false positive, false negative) rates of audits that record them."""
    found = []
    for audit in compare_flags.audits(ledger):
        rates = [audit.get("false_positive_rate"), audit.get("false_negative_rate")]
        if all(isinstance(rate, int | float) and math.isfinite(rate) for rate in rates):
            found.append({"method": str(audit.get("method", "audit")), "false_positive_rate": rates[0], "false_negative_rate": rates[1]})
    return found
