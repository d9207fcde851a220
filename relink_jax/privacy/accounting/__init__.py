"""Privacy accounting of the Poisson-subsampled Gaussian mechanism; the only package that imports dp_accounting, and lazily.

`Mechanism` says what a run did; `price` what that costs by Renyi DP and by PLD; `calibrate` and `solve` find noise, steps or batch;
`units`, `curves`, `conversions` and `selection` say what one epsilon means for other people, other tests and other choices.
"""

from relink_jax.privacy.accounting.conversions import membership_advantage, posterior, replace_one_bound
from relink_jax.privacy.accounting.curves import (
    delta_curve,
    epsilon_over_steps,
    gaussian_clt,
    gaussian_epsilon,
    gaussian_mu,
    gaussian_trade_off,
    trade_off,
)
from relink_jax.privacy.accounting.events import build_event, compose, event_from_json, event_to_json
from relink_jax.privacy.accounting.mechanism import (
    DELTA_GRID,
    MULTIPLIERS,
    RELATIONS,
    STEPS,
    VIEWS,
    Mechanism,
    binomial_tail,
    overflow_delta,
    relation_factor,
    remaining_delta,
)
from relink_jax.privacy.accounting.pricing import PLD_GRID, Epsilons, epsilon_at, epsilon_of, is_private, pld_grid, price, price_events
from relink_jax.privacy.accounting.selection import TRIALS, fixed_batch_epsilon, tuning_epsilon
from relink_jax.privacy.accounting.solving import Solution, calibrate, sigma_table, solve, steps_of
from relink_jax.privacy.accounting.units import GROUP_PLD_GRID, UNITS, group_epsilon, other_unit, own_pair_epsilon

__all__ = [
    "DELTA_GRID", "GROUP_PLD_GRID", "MULTIPLIERS", "PLD_GRID", "RELATIONS", "STEPS", "TRIALS", "UNITS", "VIEWS",
    "Epsilons", "Mechanism", "Solution",
    "binomial_tail", "build_event", "calibrate", "compose", "delta_curve", "epsilon_at", "epsilon_of", "epsilon_over_steps", "event_from_json",
    "event_to_json", "fixed_batch_epsilon", "gaussian_clt", "gaussian_epsilon", "gaussian_mu", "gaussian_trade_off", "group_epsilon", "is_private",
    "membership_advantage", "other_unit", "overflow_delta", "own_pair_epsilon", "pld_grid", "posterior", "price", "price_events", "relation_factor",
    "remaining_delta", "replace_one_bound", "sigma_table", "solve", "steps_of", "trade_off", "tuning_epsilon",
]  # fmt: skip
