"""Packing keeps every member once, groups together, and split groups at slot 0."""

import numpy as np
import pytest

from relink_jax.retrieval import tiles, toplists


@pytest.mark.parametrize("width", [1, 3, 8, 50])
def test_packing_invariants(width):
    generator = np.random.default_rng(width)
    group = np.sort(generator.integers(0, 12, 70))
    group = np.unique(np.concatenate([group, np.full(25, 5)]), return_inverse=True)[1]
    packed = tiles.pack(group, width)
    members = packed.member[packed.member >= 0]
    assert sorted(members) == list(range(len(group)))
    tile, position = packed.locate(len(group))
    slots = packed.slot[tile, position]
    np.testing.assert_array_equal(packed.group[tile, slots], group)
    for number in range(group.max() + 1):
        visited = np.unique(tile[group == number])
        if (group == number).sum() <= width:
            assert len(visited) == 1
        else:
            assert set(slots[group == number]) == {0}
        assert packed.lead[packed.group == number].sum() == 1
    order = packed.group[packed.lead]
    assert (np.diff(order) > 0).all()


def test_unique_rows_by_first_appearance():
    rows = np.array([[2, 0], [1, 1], [2, 0], [0, 5], [1, 1]], np.float32)
    first, group = tiles.unique_rows(rows)
    assert first.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]


def test_top_groups_expand_to_the_best_members():
    generator = np.random.default_rng(3)
    for _ in range(30):
        group = np.unique(generator.integers(0, 7, 15), return_inverse=True)[1]
        first = np.array([np.flatnonzero(group == g)[0] for g in range(group.max() + 1)])
        group = np.argsort(np.argsort(first))[group]
        score = generator.integers(0, 3, group.max() + 1).astype(np.float32)
        k = 5
        best = np.lexsort((np.arange(len(score)), -score))[:k]
        top = toplists.empty(1, k)
        top.score[0, : len(best)], top.group[0, : len(best)] = score[best], best
        ids, scores = toplists.expand(top, group, k)
        want = np.lexsort((np.arange(len(group)), -score[group]))[:k]
        assert ids[0].tolist() == want.tolist()
        assert scores[0].tolist() == score[group][want].tolist()
