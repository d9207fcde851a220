"""Timing by turns: on a shared machine only ratios of things that ran side by side mean anything."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def alternating(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Returns seconds per round of each call, taken in turns after one warm-up of each."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for times, call in zip(spent, calls, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                times.append(time.perf_counter() - started)
    return spent
