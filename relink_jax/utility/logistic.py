"""L2-regularised logistic regression of many labels at once, by L-BFGS in one compiled program.

Minimises, per label and strength, mean log-loss over the label's known rows + (l2 / 2) |w|^2 with the intercept unpenalised.
The features are rotated to their principal axes, which leaves the penalty unchanged, and each axis is scaled by
(variance / 4 + l2)^-1/2, the curvature's upper bound; the rescaled problem needs about 15 iterations where the raw one
needs hundreds and stalls in float32. Labels are fitted together and strengths one after another: labels of one strength need
about the same number of iterations, while weak strengths need many times those of strong ones.

References: Liu and Nocedal (1989), Math. Programming 45, 503-528 (L-BFGS); Bohning (1992), Ann. Inst. Stat. Math. 44,
197-200 (the 1/4 bound on the logistic Hessian).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_TOLERANCE = 1e-6
_FLOOR = 2e-7
_PAD = 128


class Solver:
    """Fits of L labels on one set of features: one compiled program, whatever the strengths."""

    def __init__(self, x: np.ndarray, y: np.ndarray, known: np.ndarray, max_iterations: int) -> None:
        """Takes standardised features, float64 [n, D], and boolean `y`, `known` [n, L]; see `fit`."""
        self._variances, self._axes = np.linalg.eigh(x.T @ x / len(x))
        self._width = -(-x.shape[1] // _PAD) * _PAD
        rotated = np.zeros((len(x), self._width), np.float32)
        rotated[:, : x.shape[1]] = x @ self._axes
        row_weight = known / known.sum(axis=0)
        prevalence = (row_weight * y).sum(axis=0)
        self._rotated, self._limit = jnp.asarray(rotated), max_iterations
        self._labels = [jnp.asarray(array, jnp.float32) for array in (y.T, row_weight.T, np.log(prevalence / (1 - prevalence)))]

    def at(self, l2: np.ndarray, wanted: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (weights [L, D], intercepts [L], iterations [L]) of each label at its own strength.

        Args: l2: positive, [L]. wanted: bool [L], the labels to fit; the others are left at zero weights. None for all.
        """
        strengths, width = np.asarray(l2, np.float64), len(self._variances)
        scale = np.zeros((len(strengths), self._width), np.float32)
        scale[:, :width] = 1 / np.sqrt(np.maximum(self._variances, 0)[None] / 4 + strengths[:, None])
        limits = np.where(np.ones(len(strengths), bool) if wanted is None else wanted, self._limit, 0).astype(np.int32)
        solved = _solve(self._rotated, *self._labels, strengths.astype(np.float32), scale, limits)
        weights, intercepts, iterations = (np.asarray(part) for part in solved)
        return weights[:, :width].astype(np.float64) @ self._axes.T, intercepts.astype(np.float64), iterations


def fit(x: np.ndarray, y: np.ndarray, known: np.ndarray, l2: np.ndarray, max_iterations: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits every label at every strength and returns (weights [K, L, D], intercepts [K, L], iterations [K, L]).

    Args:
        x: standardised features, float64 [n, D].
        y, known: boolean [n, L]; rows with `known` false are left out of that label. Each label needs both classes.
        l2: strengths [K], all positive.
        max_iterations: L-BFGS iterations after which a fit stops unconverged; see `gradient_norm`.
    """
    solver = Solver(x, y, known, max_iterations)
    weights, intercepts, iterations = zip(*(solver.at(np.full(y.shape[1], strength)) for strength in l2), strict=True)
    return np.stack(weights), np.stack(intercepts), np.stack(iterations)


def gradient_norm(x: np.ndarray, y: np.ndarray, known: np.ndarray, l2: float, weights: np.ndarray, intercept: float) -> float:
    """Returns |gradient| at the solution over |gradient| at (0, log-odds), in float64, for one label; 0 when both vanish.

    Args: `x` [n, D], `y`, `known` boolean [n], `weights` [D], as in `fit`.
    """
    share = known / known.sum()
    prevalence = float((share * y).sum())

    def norm(w: np.ndarray, p: np.ndarray | float) -> float:
        residual = share * (p - y)
        return float(np.sqrt(np.sum((x.T @ residual + l2 * w) ** 2) + residual.sum() ** 2))

    at_solution = norm(weights, 1 / (1 + np.exp(-(x @ weights + intercept))))
    at_start = norm(np.zeros_like(weights), prevalence)
    return at_solution / at_start if at_start > 1e-12 else at_solution


@jax.jit
def _solve(x: Any, y: Any, row_weight: Any, start: Any, l2: Any, scale: Any, max_iterations: Any) -> Any:
    """Solves L problems: `x` [n, D], `y`, `row_weight` [L, n], `start`, `l2`, `max_iterations` [L], `scale` [L, D]."""
    return jax.vmap(functools.partial(_solve_one, x))(max_iterations, y, row_weight, start, l2, scale)


def _solve_one(x: Any, max_iterations: Any, y: Any, row_weight: Any, start: Any, l2: Any, scale: Any) -> Any:
    def loss(parameters: Any) -> Any:
        slopes, intercept = parameters
        logits = jnp.matmul(x, slopes * scale, precision=jax.lax.Precision.HIGHEST) + intercept
        return jnp.sum(row_weight * (jax.nn.softplus(logits) - y * logits)) + 0.5 * l2 * jnp.sum((slopes * scale) ** 2)

    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=5, initial_guess_strategy="one")
    optimizer = optax.lbfgs(memory_size=10, linesearch=search)
    value_and_grad = optax.value_and_grad_from_state(loss)
    first = (jnp.zeros(x.shape[1], jnp.float32), start)
    first_norm = optax.tree.norm(jax.grad(loss)(first))

    def going(carry: Any) -> Any:
        _, _, iteration, norm = carry
        return (iteration < max_iterations) & (norm > jnp.maximum(_TOLERANCE * first_norm, _FLOOR))

    def step(carry: Any) -> Any:
        parameters, state, iteration, _ = carry
        value, grad = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(grad, state, parameters, value=value, grad=grad, value_fn=loss)
        parameters = optax.apply_updates(parameters, updates)
        return parameters, state, iteration + 1, optax.tree.norm(optax.tree.get(state, "grad"))

    (slopes, intercept), _, iterations, _ = jax.lax.while_loop(going, step, (first, optimizer.init(first), 0, first_norm))
    return slopes * scale, intercept, iterations
