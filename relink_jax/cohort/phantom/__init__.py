"""The phantom cohort: seeded synthetic radiographs and reports that go through the same door as a user's archive.

Everything here is invented; a phantom says nothing about any real model or patient beyond what it was built to show.
"""

from relink_jax.cohort.phantom.captions import caption
from relink_jax.cohort.phantom.generate import generate
from relink_jax.cohort.phantom.people import ImageRecord, anchor_reports, anchor_texts, population

__all__ = ["ImageRecord", "anchor_reports", "anchor_texts", "caption", "generate", "population"]
