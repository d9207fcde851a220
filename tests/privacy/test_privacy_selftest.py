import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIONS, problem

from relink_jax import errors
from relink_jax.privacy import clipping, norms, objectives, pair_clipping, selftest


def run(objective, image="linear", implementation="auto"):
    params, records, public = problem(image, "linear")
    like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), records)
    return selftest.check(objective, params, like, public.arrays(), l2_norm_clip=1.0, implementation=implementation)


@pytest.mark.parametrize("name", ["anchor_infonce", "group_infonce", "pair_sigmoid", "logit_dp"])
def test_objectives_pass(name):
    assert run(objectives.get_objective(name, 0.4, **OPTIONS)) == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align", "anchor_sigmoid", "prototype", "anchor_infonce", "group_infonce", "pair_sigmoid"])
@pytest.mark.parametrize("image", ["patch", "cxr_bert"])
def test_objectives_pass_under_other_forms(name, image):
    assert run(objectives.get_objective(name, 0.4, **OPTIONS), image) == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anchor_infonce", "group_infonce", "pair_sigmoid"])
def test_objectives_pass_by_vmap(name):
    assert run(objectives.get_objective(name, 0.4, **OPTIONS), implementation="vmap") == "passed"


def test_the_unsound_objective_claims_nothing_and_is_not_tested():
    assert run(objectives.get_objective("inbatch_infonce_unsound", 0.4, **OPTIONS)) == "not applicable: unsound objective"


class Understated(objectives.AnchorInfoNCE):
    def factor(self):
        return 0.5


def test_understated_sensitivity_is_caught():
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        run(Understated(0.4))


def test_missing_clip_is_caught(monkeypatch):
    monkeypatch.setattr(norms, "clip_factors", lambda sizes, clip, padding: jnp.where(jnp.isfinite(sizes) & ~padding, 1.0, 0.0))
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        run(objectives.get_objective("anchor_infonce", 0.1234))


@dataclasses.dataclass(frozen=True)
class ClaimedPerRecord(objectives.AnchorInfoNCE):
    name: ClassVar[str] = "in_batch"

    def batch_loss(self, images, texts, present):
        return objectives.get_objective("inbatch_infonce_unsound", 0.07, allow_unsound=True).batch_loss(images, texts, present)


def in_batch_closed_form(objective, params, block, weights, state, clip):
    """The usual unsound coding: every record is a negative of every other, then each record's gradient is clipped."""
    first = jax.tree.map(lambda array: array[:, :1], block)
    rows, kept = pair_clipping.row_cotangents(objective, params, first, weights[:, :1])
    return CLOSED_FORM(clipping.units.Pullback(), params, clipping.units.gather(rows, None, kept), kept, None, clip)


CLOSED_FORM = clipping._closed_form


def test_in_batch_negatives_claimed_per_record_are_caught(monkeypatch):
    monkeypatch.setattr(clipping, "_closed_form", in_batch_closed_form)
    with pytest.raises(errors.UnsoundError, match=r"sensitivity|decomposition"):
        run(ClaimedPerRecord(0.4))


@pytest.mark.parametrize("name", ["anchor_infonce", "group_infonce"])
def test_units_scaled_by_what_the_others_hold_are_caught(monkeypatch, name):
    """Dividing every unit's gradient by the number of usable records breaks no bound of a single step, and is caught as a leak."""

    def peeking(objective, params, block, weights, state, clip):
        usable = jnp.sum((weights > 0) & jnp.isfinite(block.images).all(axis=2))
        return jax.tree.map(lambda leaf: leaf * (1 + usable / 64), CLOSED_FORM(objective, params, block, weights, state, clip / 2))

    monkeypatch.setattr(clipping, "_closed_form", peeking)
    with pytest.raises(errors.UnsoundError, match="decomposition"):
        run(objectives.get_objective(name, 0.4567, **OPTIONS))


def test_pairs_renormalised_by_the_batch_are_caught(monkeypatch):
    class Renormalised(type(objectives.get_objective("pair_sigmoid", 0.4, **OPTIONS))):
        def pair_scales(self, similarities, present):
            outer, inner = super().pair_scales(similarities, present)
            return outer * (0.5 + jnp.sum(present) / 512), inner

    with pytest.raises(errors.UnsoundError, match="decomposition"):
        run(Renormalised(0.4, 0.0, 16))


def test_only_shapes_of_the_records_are_read():
    objective = objectives.get_objective("prototype", 0.4)
    assert run(objective, "patch_missing") == "passed"
    assert np.isfinite(objective.temperature)
