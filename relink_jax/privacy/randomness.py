"""All randomness of a training run as a pure function of one secret and the step.

A run draws 256 bits of operating-system entropy once. Every batch and every noise key is derived from them by keyed BLAKE2b (RFC 7693, a
pseudorandom function of purpose and step), so that a run that was interrupted goes on with the draws it would have made: nothing is ever drawn
twice for one step, and nobody without the secret can tell any draw. The secret lies in the private training state while a run is unfinished
and nowhere else; it is not printed, logged, hashed into the ledger or kept when the run ends.

Whoever holds the secret can subtract the noise: a fixed seed is for tests, and voids the guarantee.
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors
from relink_jax.runtime import mesh

BYTES = 32
BATCH, NOISE = "batch", "noise"


@dataclasses.dataclass(frozen=True)
class Secret:
    """256 secret bits.

    Attributes:
        seed: the bits; never shown, not even by `repr`.
        disclosed: true when they came from a known seed, which voids any guarantee.
    """

    seed: bytes = dataclasses.field(repr=False)
    disclosed: bool = False

    def __post_init__(self) -> None:
        if len(self.seed) != BYTES:
            raise errors.UsageError(errors.describe("secret", "randomness", f"{BYTES} bytes", f"{len(self.seed)}"))

    def generator(self, purpose: str, step: int) -> np.random.Generator:
        """Returns a NumPy generator for one purpose of one step: the same whenever it is asked for, unlike any other."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self._derived(purpose, step, 16), np.uint64)))

    def key(self, purpose: str, step: int) -> jax.Array:
        """Returns a threefry key of 64 secret bits (`jax.random.key(int)` would keep 32 of a seed, few enough to enumerate)."""
        return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(self._derived(purpose, step, 8), np.uint32)), impl="threefry2x32")

    def _derived(self, purpose: str, step: int, size: int) -> bytes:
        return hashlib.blake2b(f"{purpose}|{step}".encode(), key=self.seed, digest_size=size, person=b"relink_jax").digest()


def fresh(test_seed: int | None = None, token_bytes: Callable[[int], bytes] | None = None) -> Secret:
    """Returns a new secret from operating-system entropy, that of process 0 on all processes, or the disclosed one of a test seed."""
    if test_seed is not None:
        return Secret(np.random.default_rng(test_seed).bytes(BYTES), disclosed=True)
    return Secret(mesh.bytes_from_first((token_bytes or secrets.token_bytes)(BYTES)))
