"""A small synthetic training problem shared by the tests of the privacy room."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from relink_jax.privacy import banks, clipping


@dataclasses.dataclass
class Toy:
    heads: dict[str, Any]
    images: np.ndarray
    texts: np.ndarray
    patient: np.ndarray
    bank: banks.PublicBank

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.heads, self.images, self.texts, self.patient, self.bank

    @property
    def records(self) -> clipping.Records:
        return clipping.Records(self.images, self.texts)


def make_toy(patients: int = 40, pairs: int = 100, width: int = 12, embedding: int = 8, anchors: int = 20, seed: int = 0) -> Toy:
    generator = np.random.default_rng(seed)
    patient = np.concatenate([np.arange(patients), generator.integers(0, patients, pairs - patients)]).astype(np.int32)
    latent = generator.standard_normal((pairs, 5))
    images, texts = (
        (latent @ generator.standard_normal((5, side)) + 0.3 * generator.standard_normal((pairs, side))).astype(np.float32) for side in (width, width + 4)
    )
    kernels = [(generator.standard_normal((side, embedding)) / np.sqrt(side)).astype(np.float32) for side in (width, width + 4)]
    bank = banks.PublicBank(generator.standard_normal((anchors, width + 4)).astype(np.float32), "synthetic texts of a test")
    return Toy({"image": {"kernel": kernels[0]}, "text": {"kernel": kernels[1]}}, images, texts, patient, bank)


@pytest.fixture
def toy() -> Toy:
    return make_toy()
