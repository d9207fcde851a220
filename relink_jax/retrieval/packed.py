"""Counting under several conditions at once: yes/no answers packed as 5-bit fields of one 32-bit word.

A reduction over a tile of scores costs a pass over it, and XLA on the CPU turns sibling reductions of one array into something far
slower than their sum. So the answers to all conditions about one score are packed into words, and one variadic reduction adds the words
over groups of `GROUP` neighbours beside whatever else it reduces. A group holds 16 answers, whose sum 5 bits hold; the sums are then
unpacked and added as plain integers, a sixteenth of the work.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GROUP = 16  # neighbours whose answers are added before unpacking; at most 31
_BITS, _FIELDS, _CHECK = 5, 6, 30


def pack(answers: Sequence[jax.Array], counted: jax.Array, check: jax.Array) -> list[jax.Array]:
    """Returns int32 words of bool `answers`, each of one shape, where `counted` holds; elsewhere only `check` is kept.

    `check` may hold in at most 3 places of a group, and only outside `counted`. See `unpack` for the way back.
    """
    words = []
    for first in range(0, len(answers), _FIELDS):
        word: jax.Array = jnp.zeros((), jnp.int32)
        for place, answer in enumerate(answers[first : first + _FIELDS]):
            word = word + jnp.where(answer, np.int32(1 << (_BITS * place)), np.int32(0))
        kept = jnp.where(check, np.int32(1 << _CHECK), np.int32(0)) if not first else np.int32(0)
        words.append(jnp.where(counted, word, kept))
    return words


def unpack(words: Sequence[jax.Array], n_answers: int) -> list[jax.Array]:
    """Returns the sums of each of `n_answers` answers, then of the check, from words added over at most `GROUP` places."""
    plain = [lax.bitcast_convert_type(word, jnp.uint32) for word in words]
    places = [(plain[number // _FIELDS], _BITS * (number % _FIELDS), (1 << _BITS) - 1) for number in range(n_answers)]
    places.append((plain[0], _CHECK, 3))
    return [((word >> np.uint32(shift)) & np.uint32(mask)).astype(jnp.int32) for word, shift, mask in places]


def sums(operands: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """Returns the int32 sum of each operand along `axis`, all in one pass."""
    zeros = (np.int32(0),) * len(operands)
    return list(lax.reduce(tuple(operands), zeros, lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)), (axis,)))


def maximum_and_sums(scores: jax.Array, words: Sequence[jax.Array], axis: int) -> tuple[jax.Array, list[jax.Array]]:
    """Returns (maximum of float32 `scores`, int32 sum of each word) along `axis`, all in one pass."""

    def combine(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return (jnp.maximum(left[0], right[0]), *(a + b for a, b in zip(left[1:], right[1:], strict=True)))

    best, *added = lax.reduce((scores, *words), (np.float32(-np.inf), *(np.int32(0),) * len(words)), combine, (axis,))
    return best, added
