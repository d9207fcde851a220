import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from relink_jax import errors
from relink_jax.privacy import clipping, objectives, sampling, selftest, training


def run(toy, objective, implementation="closed_form"):
    params = jax.tree.map(jnp.asarray, toy.heads)
    return selftest.check(objective, params, jnp.asarray(toy.bank.features), l2_norm_clip=1.0, implementation=implementation)


@pytest.mark.parametrize("implementation", clipping.IMPLEMENTATIONS)
def test_anchor_objective_passes(toy, implementation):
    assert run(toy, objectives.get_objective("anchor_infonce", 0.1), implementation) == "passed"


class Understated(objectives.AnchorInfoNCE):
    def sensitivity(self, relation, l2_norm_clip):
        return 0.5 * super().sensitivity(relation, l2_norm_clip)


def test_understated_sensitivity_is_caught(toy):
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        run(toy, Understated(0.1))


def test_missing_clip_is_caught(toy, monkeypatch):
    monkeypatch.setattr(clipping, "clip_factors", lambda norms, clip, padding: jnp.where(jnp.isfinite(norms) & ~padding, 1.0, 0.0))
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        run(toy, objectives.get_objective("anchor_infonce", 0.1234))


def in_batch_closed_form(objective, params, images, texts, padding, public, clip):
    """The usual unsound coding: every record is a negative of every other, then each record's gradient is clipped."""
    usable = ~padding & jnp.isfinite(images).all(axis=1) & jnp.isfinite(texts).all(axis=1) & (images != 0).any(axis=1)
    images, texts = (jnp.where(usable[:, None], rows, 1.0) for rows in (images, texts))

    def row_loss(kernels, k):
        u, v = images @ kernels["image"]["kernel"], texts @ kernels["text"]["kernel"]
        u, v = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (u, v))
        scores = jnp.where(usable, v @ u[k] / objective.temperature, -jnp.inf)
        return jax.nn.logsumexp(scores) - scores[k]

    gradients = jax.vmap(jax.grad(row_loss), in_axes=(None, 0))(params, jnp.arange(len(images)))
    flat = jnp.concatenate([leaf.reshape(len(images), -1) for leaf in jax.tree.leaves(gradients)], axis=1)
    factors = clipping.clip_factors(clipping.norm(flat), clip, ~usable)
    return jax.tree.map(lambda leaf: jnp.nansum(leaf * factors[:, None, None], axis=0), gradients)


@dataclasses.dataclass(frozen=True)
class ClaimedPerRecord(objectives.AnchorInfoNCE):
    name: ClassVar[str] = "in_batch"


def test_in_batch_negatives_claimed_per_record_are_caught(toy, monkeypatch):
    monkeypatch.setattr(clipping, "_closed_form", in_batch_closed_form)
    with pytest.raises(errors.UnsoundError, match=r"sensitivity|decomposition"):
        run(toy, ClaimedPerRecord(0.1))


@pytest.mark.parametrize("data", [True, False])
def test_training_stops_at_a_failed_self_test_before_any_private_row_or_ledger(toy, monkeypatch, tmp_path, data):
    path = tmp_path / "run" / "privacy_ledger.json"
    monkeypatch.setattr(objectives, "get_objective", lambda name, temperature: Understated(temperature))
    monkeypatch.setattr(sampling.PoissonSampler, "sample", lambda self: pytest.fail("private rows were drawn"))
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        training.train_heads(*toy.arguments, expected_batch_size=10, iterations=4, data=data, ledger_path=path)
    assert not path.exists()


def test_training_stops_at_in_batch_negatives(toy, monkeypatch, tmp_path):
    path = tmp_path / "run" / "privacy_ledger.json"
    monkeypatch.setattr(clipping, "_closed_form", in_batch_closed_form)
    monkeypatch.setattr(objectives, "get_objective", lambda name, temperature: ClaimedPerRecord(temperature + 0.01))
    with pytest.raises(errors.UnsoundError, match=r"sensitivity|decomposition"):
        training.train_heads(*toy.arguments, expected_batch_size=10, iterations=4, ledger_path=path)
    assert not path.exists()
