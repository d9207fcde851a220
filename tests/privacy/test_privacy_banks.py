import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import banks


def test_public_bank_refuses_private_rows_and_missing_provenance():
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(errors.UnsoundError, match="1 rows flagged"):
        banks.PublicBank(rows, "somewhere", private=np.array([False, True, False]))
    with pytest.raises(errors.UnsoundError, match="3 rows flagged"):
        banks.PublicBank(rows, "somewhere", private=True)
    with pytest.raises(errors.UnsoundError, match="provenance"):
        banks.PublicBank(rows, " ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_public_bank_refuses_unusable_rows(bad):
    rows = np.ones((3, 4), np.float32)
    rows[1] = bad
    with pytest.raises(errors.DataError, match="1 other rows"):
        banks.PublicBank(rows, "somewhere")
    with pytest.raises(errors.DataError, match="at least one row"):
        banks.PublicBank(np.ones((0, 4), np.float32), "somewhere")


def test_public_bank_is_frozen_and_hashed():
    rows = np.ones((3, 4), np.float32)
    bank = banks.PublicBank(rows, "somewhere")
    before = bank.sha256
    rows[0] = 5.0
    assert bank.features[0, 0] == 1.0
    assert banks.PublicBank(rows, "somewhere").sha256 != before
    with pytest.raises(ValueError):
        bank.features[0, 0] = 2.0


def test_bank_made_of_private_rows_is_refused_but_a_chance_match_is_not(toy):
    private = banks.PublicBank(toy.texts[:20], "claimed public")
    with pytest.raises(errors.UnsoundError, match="half of the rows or more") as caught:
        private.refuse_private(toy.texts)
    assert not any(character.isdigit() for character in str(caught.value))
    mostly = np.concatenate([toy.texts[:2], toy.bank.features])
    banks.PublicBank(mostly, "synthetic").refuse_private(toy.texts)


def test_a_bank_of_which_half_is_private_is_refused():
    rows = np.eye(4, dtype=np.float32)
    bank = banks.PublicBank(rows, provenance="test")
    bank.refuse_private(np.concatenate([rows[:1], -rows]))
    with pytest.raises(errors.UnsoundError, match="anchors"):
        bank.refuse_private(np.concatenate([rows[:2], -rows]))


def test_image_anchors_are_checked_hashed_and_compared_too(toy):
    texts, images = np.ones((3, 4), np.float32), toy.images[:5]
    bank = banks.PublicBank(texts, "somewhere", image_features=images)
    assert bank.sha256 != banks.PublicBank(texts, "somewhere").sha256
    assert bank.arrays().images.shape == images.shape
    assert banks.PublicBank(texts, "somewhere").arrays().images is None
    bank.refuse_private(toy.texts)
    with pytest.raises(errors.UnsoundError, match="half of the rows or more"):
        bank.refuse_private(toy.texts, toy.images)
    with pytest.raises(errors.DataError, match="image anchor features"):
        banks.PublicBank(texts, "somewhere", image_features=np.full((2, 3), np.nan))
    assert banks.PublicBank(texts, "somewhere", image_features=np.ones((2, 3, 4))).arrays().images.shape == (2, 3, 4)
