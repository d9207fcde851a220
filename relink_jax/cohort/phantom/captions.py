"""Captions made of labels only: what a model that was never shown reports could have learned from."""

from collections.abc import Sequence

from relink_jax.cohort.schema import LABELS


def caption(labels: Sequence[int]) -> str:
    """Returns one sentence naming the positive labels of 14 codes in `schema.LABELS` order.

    Example: >>> caption([-2, -2, 1] + [-2] * 11)  ->  'Chest radiograph showing cardiomegaly.'
    """
    named = [name.lower() for name, value in zip(LABELS[1:], labels[1:], strict=True) if value == 1]
    if not named:
        return "Chest radiograph showing no finding."
    listed = named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    return f"Chest radiograph showing {listed}."
