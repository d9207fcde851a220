"""Where rows lie, how answers are packed, and which groups of neighbours hold the best."""

import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax.retrieval import arrange, packed, toplists, unique


@pytest.mark.parametrize(
    ("n", "width", "blocks", "unit", "parts"),
    [(1, 256, 1, 128, 1), (1000, 256, 1, 128, 3), (1000, 300, 7, 64, 1), (5000, 512, 32, 128, 2), (40_000, 130, 1, 128, 1)],
)
def test_every_row_has_one_place_and_blocks_do_not_share_a_group(n, width, blocks, unit, parts):
    block = np.random.default_rng(0).integers(0, blocks, n) if blocks > 1 else None
    placed = arrange.arrange(n, width, block, unit=unit, parts=parts)
    real = placed.number[placed.number >= 0]
    assert sorted(real) == list(range(n))
    assert placed.width % unit == 0
    assert len(placed.number) % parts == 0
    assert placed.number.size < n + blocks * packed.GROUP + parts * placed.width
    assert (placed.number >= 0).reshape(-1, parts * placed.width).any(axis=1).all()
    of_place = np.repeat(placed.block, packed.GROUP, axis=1)
    known = np.zeros(n, int) if block is None else block
    np.testing.assert_array_equal(of_place[placed.number >= 0], known[real])
    assert (np.diff(placed.block.ravel()) >= 0).all()
    assert placed.blocks_per_part() == max(len(np.arange(row[0], row[-1] + 1)) for row in placed.block)
    for number in range(blocks):
        assert (np.diff(real[known[real] == number]) > 0).all()
    values = np.arange(n) * 10.0
    np.testing.assert_array_equal(placed.back(placed.take(values, -1.0).ravel(), n), values)


@pytest.mark.parametrize("n_answers", [1, 6, 7, 13])
def test_packed_answers_come_back_as_sums(n_answers):
    generator = np.random.default_rng(1)
    answers = generator.random((n_answers, 5, 3, packed.GROUP)) < 0.5
    answers[:, 0] = True
    counted = generator.random((5, 3, packed.GROUP)) < 0.8
    counted[0] = True
    check = np.zeros_like(counted)
    check[1, 0, np.flatnonzero(~counted[1, 0])[:1]] = True
    words = packed.pack([jnp.asarray(answer) for answer in answers], jnp.asarray(counted), jnp.asarray(check))
    assert len(words) == -(-n_answers // 6)
    scores = generator.standard_normal(counted.shape).astype(np.float32)
    best, added = packed.maximum_and_sums(jnp.asarray(scores), words, axis=2)
    np.testing.assert_array_equal(best, scores.max(axis=2))
    for summed in (added, packed.sums(words, axis=2)):
        *found, seen = packed.unpack(summed, n_answers)
        np.testing.assert_array_equal(found, (answers & counted).sum(axis=3))
        np.testing.assert_array_equal(seen, check.sum(axis=2))


@pytest.mark.parametrize("size", [packed.GROUP, 2 * packed.GROUP])
@pytest.mark.parametrize(("kept", "k"), [(7, 7), (3, 7), (1, 20), (2, 300)])
def test_kept_groups_hold_the_best_and_say_when_they_may_not(kept, k, size):
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 40, (50, 3, 8 * size)).astype(np.float32)
    scores[:, 2, -packed.GROUP // 2 :] = -np.inf
    maxima = scores.reshape(50, 3, -1, packed.GROUP).max(axis=3)
    tiles = [toplists.keep(jnp.asarray(scores[:, t]), jnp.asarray(maxima[:, t]), kept, jnp.int32(8 * size * t), size) for t in range(3)]
    parts = [jnp.concatenate(part, axis=1) for part in zip(*(tile[:3] for tile in tiles), strict=True)]
    left_behind = np.max([tile.left for tile in tiles], axis=0)
    score, place = toplists.select(toplists.Kept(*parts, jnp.asarray(left_behind)), k)
    settled = (left_behind < np.min(score, axis=1)) | (min(kept, 8) >= min(k, 8))
    every = scores.reshape(50, -1)
    order = np.lexsort((np.broadcast_to(np.arange(every.shape[1]), every.shape), -every), axis=1)[:, :k]
    wanted = np.where(np.take_along_axis(every, order, axis=1) > -np.inf, order, -1)
    np.testing.assert_array_equal(np.asarray(place)[settled], wanted[settled])
    assert settled.all() == (kept >= min(k, 8)) or settled.any()
    assert (np.asarray(place)[~settled] != wanted[~settled]).any() or settled.all() or kept > 1


def test_unique_rows_by_first_appearance():
    rows = np.array([[2, 1], [1, 1], [2, 1], [1, 5], [1, 1]], np.float32)
    first, group = unique.unique_rows(rows)
    assert first.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]
