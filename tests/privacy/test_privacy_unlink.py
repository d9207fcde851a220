"""The unlinking loss is a loss of one record: what it keeps, what it takes away, and that it passes the self-test and clips alike both ways."""

import jax
import numpy as np
import pytest

from relink_jax.privacy import banks, clipping, objectives, selftest

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

L, F, D = 4, 9, 7


def problem(seed=0, rows=6):
    generator = np.random.default_rng(seed)
    params = {side: {"kernel": generator.standard_normal((F, D)).astype(np.float32)} for side in ("image", "text")}
    images, texts, prototypes = (generator.standard_normal((n, F)).astype(np.float32) for n in (rows, rows, L))
    labels = (generator.random((rows, L)) < 0.5).astype(np.float32)
    public = banks.PublicBank(prototypes, "synthetic prototypes of a test").arrays()
    return objectives.get_objective("unlink", 0.1), params, clipping.Records(images, texts, labels), public


def test_only_what_lies_outside_the_prototypes_is_decorrelated():
    objective, _, _, _ = problem()
    plain = objectives.get_objective("prototype", 0.1)
    eye = np.eye(D, dtype=np.float32)
    state, labels = banks.Public(eye[:L]), np.ones(L, np.float32)
    inside, outside = (eye[0] + eye[1]) / np.sqrt(2), eye[L]
    mixed = (eye[0] + eye[L]) / np.sqrt(2)

    def extra(image, text):
        return float(objective.record_loss(image, text, labels, state) - plain.record_loss(image, text, labels, state))

    assert extra(inside, inside) == pytest.approx(0, abs=1e-5)
    assert extra(outside, outside) == pytest.approx(objective.weight, rel=1e-5)
    assert extra(outside, eye[L + 1]) == pytest.approx(0, abs=1e-5)
    assert extra(mixed, mixed) == pytest.approx(objective.weight / 4, rel=1e-5)
    assert extra(mixed, -mixed) == pytest.approx(objective.weight / 4, rel=1e-5)


def test_it_is_per_record_and_passes_the_self_test():
    objective, params, records, public = problem()
    assert (objective.decomposition, objective.sensitivity("zero_out", 0.5), objective.sensitivity("replace_one", 0.5)) == ("per_record", 0.5, 1.0)
    assert selftest.check(objective, params, records, public, l2_norm_clip=0.5) == "passed"


def test_closed_form_and_autodiff_agree_and_a_record_weighs_at_most_the_clip():
    objective, params, records, public = problem()

    def total(rows, implementation):
        batch = clipping.Batch(np.asarray(rows, np.int32)[:, None], np.ones((len(rows), 1), np.float32))
        found = clipping.clipped_sum(objective, params, records, batch, public, l2_norm_clip=0.5, implementation=implementation)
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found.value)])

    whole = total(range(6), "closed_form")
    np.testing.assert_allclose(whole, total(range(6), "vmap"), rtol=1e-4, atol=1e-6)
    for left in range(6):
        moved = np.linalg.norm(whole - total([row for row in range(6) if row != left], "closed_form"))
        assert 0.01 < moved <= 0.5 * (1 + 1e-5)
