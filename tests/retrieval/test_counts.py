"""The streamed pass against dense float64 counting, on every mesh, batch and tile, with thousands of ties."""

import dataclasses

import brute
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import counts, engine, limits, loop, recheck, sides, sweep, unique
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes


def records(n_images, n_studies, dim, seed=0, grid=True, exclusion="patient", blocks=0, codes=2):
    """Returns records with duplicated reports (some across patients), duplicated images, unlabelled studies and studies without images."""
    generator = np.random.default_rng(seed)
    texts = generator.integers(-2, 3, (n_studies, dim)) if grid else generator.standard_normal((n_studies, dim))
    source = np.where(generator.random(n_studies) < 0.3, generator.integers(0, 4, n_studies), np.arange(n_studies))
    texts = texts.astype(np.float32)[source]
    first, study_text = unique.unique_rows(texts)
    image_study = generator.integers(0, n_studies, n_images).astype(np.int32)
    noise = generator.integers(-1, 2, (n_images, dim)) if grid else generator.standard_normal((n_images, dim))
    images = (texts[image_study] + noise).astype(np.float32)
    images[generator.integers(0, n_images, n_images // 6)] = images[0]
    patient = (np.arange(n_studies) // 2).astype(np.int32)
    strata = {name: generator.integers(-1, highest, n_studies).astype(np.int32) for name, highest in (("label_matched", 3), ("site", 9))}
    block = generator.integers(0, blocks, n_studies).astype(np.int32)[patient * 2] if blocks else None
    key = patient if exclusion == "patient" else np.arange(n_studies, dtype=np.int32)
    return Records(images, image_study, texts[first], study_text, key, dict(list(strata.items())[:codes]), block)


def flat(counted):
    """Returns every integer of a result by name."""
    out = {}
    for direction, found in counted.items():
        out |= {f"{direction}/query": found.query, f"{direction}/top": found.top_id}
        for name, stratum in found.strata.items():
            for number, one in enumerate([stratum, *found.blocks.get(name, [])]):
                out |= {f"{direction}/{name}/{number}/{field}": getattr(one, field) for field in "Mgt"}
    return out


def small(seed, **options):
    """Returns records of the one shape that many cases share, with `count_small`: one program serves them all."""
    return records(131, 97, 4, seed=seed, codes=1, **options)


def count_small(data, devices=1, **options):
    return counts.count(data, mesh=meshes.make_mesh(devices), top_k=3, layout=Layout("images" if devices == 1 else "studies", 64, 128, height=64), **options)


def check(data, counted, k):
    for direction, found in counted.items():
        for name, wanted in brute.count(data, direction).items():
            got = [np.stack([one.M, one.g, one.t], axis=1) for one in (found.strata[name], *found.blocks.get(name, []))]
            np.testing.assert_array_equal(np.stack(got), wanted, err_msg=f"{direction} {name}")
        if k:
            np.testing.assert_array_equal(found.top_id, brute.top(data, direction, k), err_msg=direction)


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
@pytest.mark.parametrize(
    ("n_images", "n_studies", "devices", "block", "tile", "k", "exclusion", "blocks", "codes", "split"),
    [
        (131, 97, 1, 64, 128, 3, "patient", 0, 1, "images"),
        (259, 301, 4, 256, 128, 10, "study", 5, 2, "studies"),
        pytest.param(259, 801, 4, 256, 128, 40, "patient", 3, 2, "ring", marks=pytest.mark.slow),
        (7, 5, 8, 0, 0, 10, "patient", 0, 1, "images"),
        (333, 801, 2, 128, 256, 40, "patient", 7, 2, "images"),
        (700, 401, 2, 512, 128, 1, "study", 3, 0, "ring"),
        (150, 400, 3, 200, 128, 100, "patient", 0, 0, "studies"),
        (333, 401, 3, 333, 128, 7, "patient", 3, 2, "images"),
        (333, 401, 8, 64, 2048, 7, "patient", 3, 2, "studies"),
        pytest.param(700, 401, 1, 256, 256, 1, "patient", 5, 1, "images", marks=pytest.mark.slow),
        pytest.param(450, 301, 2, 256, 128, 5, "study", 9, 2, "studies", marks=pytest.mark.slow),
    ],
)
def test_equals_dense_counting(n_images, n_studies, devices, block, tile, k, exclusion, blocks, codes, split):
    data = records(n_images, n_studies, 4, exclusion=exclusion, blocks=blocks, codes=codes)
    counted = counts.count(data, mesh=meshes.make_mesh(devices), top_k=k, layout=Layout(split, block, tile, height=64))
    assert sum(int(stratum.t.sum()) for found in counted.values() for stratum in found.strata.values()) > 0
    check(data, counted, k)


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
@pytest.mark.slow  # by default `test_equals_dense_counting` counts data of this shape on two of these layouts, and others on more
@pytest.mark.parametrize("blocks", [0, 3])
def test_same_integers_on_any_mesh_batch_tile_and_split(blocks):
    data = records(333, 401, 5, seed=1, blocks=blocks)
    reference = flat(counts.count(data, mesh=meshes.make_mesh(1), top_k=7))
    for devices, block, tile, split in [(1, 64, 128, "images"), (2, 200, 256, "studies"), (3, 333, 128, "images"), (8, 64, 2048, "studies")]:
        found = flat(counts.count(data, mesh=meshes.make_mesh(devices), top_k=7, layout=Layout(split, block, tile, height=64)))
        for name, array in found.items():
            np.testing.assert_array_equal(array, reference[name], err_msg=f"{name} on {devices} devices, batch {block}, tile {tile}, {split} split")


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
def test_order_of_candidates_and_queries_does_not_matter():
    data = small(seed=2, blocks=2)
    reference = count_small(data, devices=2)
    generator = np.random.default_rng(0)
    image_order, study_order = generator.permutation(131), generator.permutation(97)
    renumber = np.argsort(study_order).astype(np.int32)
    moved = Records(
        data.images[image_order],
        renumber[data.image_study[image_order]],
        data.texts,
        data.study_text[study_order],
        data.exclusion[study_order],
        {name: code[study_order] for name, code in data.codes.items()},
        data.block[study_order],
    )
    found = count_small(moved, devices=2)
    for name in ("other_patient", "label_matched"):
        for field in "Mgt":
            np.testing.assert_array_equal(getattr(found["i2r"].strata[name], field), getattr(reference["i2r"].strata[name], field)[image_order])
            back = dict(zip(study_order[found["r2i"].query], getattr(found["r2i"].strata[name], field), strict=True))
            assert [back[query] for query in reference["r2i"].query] == getattr(reference["r2i"].strata[name], field).tolist()


def test_monotone_transform_of_scores_changes_nothing():
    data = small(seed=3)
    scaled = dataclasses.replace(data, images=data.images * 4)
    first, second = (flat(count_small(one)) for one in (data, scaled))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
def test_one_direction_alone_gives_the_same_integers():
    data = small(seed=9, blocks=2)
    both = flat(count_small(data, devices=2))
    for direction in ("i2r", "r2i"):
        alone = flat(count_small(data, devices=2, directions=(direction,)))
        assert {name.split("/")[0] for name in alone} == {direction}
        for name, array in alone.items():
            np.testing.assert_array_equal(array, both[name], err_msg=name)


def test_real_embeddings_agree_with_float64_outside_rounding():
    data = records(300, 250, 16, seed=4, grid=False)
    counted = counts.count(data, mesh=meshes.make_mesh(4), top_k=3, layout=Layout(query_block=256))
    found = recheck.recheck(data, counted, n_queries=300)
    assert found["queries"] >= 400
    assert found["identical"] > 0.95 * found["strata_checked"]


def test_recheck_refuses_a_wrong_count():
    data = small(seed=5, grid=False)
    wrong = count_small(data)
    wrong["i2r"].strata["other_patient"].g[:] += 1
    with pytest.raises(errors.UnsoundError, match="counts differ from float64 in recheck of i2r other_patient"):
        recheck.recheck(data, wrong)


LAYOUTS = ((1, "images"), (4, "images"), (4, "studies"))


@pytest.mark.parametrize(("dim", "layouts"), [(200, LAYOUTS[::2]), *(pytest.param(dim, LAYOUTS, marks=pytest.mark.slow) for dim in (24, 200))])
def test_constant_embeddings_tie_with_everything(dim, layouts):
    """Every score is the same product, whose bits must not depend on its place in a tile, on the tile or on the device."""
    generator = np.random.default_rng(0)
    row = generator.standard_normal((1, dim)).astype(np.float32)
    n_images, n_studies = 700, 500
    image_study = generator.integers(0, n_studies, n_images).astype(np.int32)
    patient = (np.arange(n_studies) // 3).astype(np.int32)
    text = np.arange(n_studies, dtype=np.int32)
    data = Records(np.repeat(row, n_images, 0), image_study, np.repeat(row[:, ::-1], n_studies, 0), text, patient, {"label_matched": np.zeros_like(text)})
    for devices, split in layouts:
        for found in counts.count(data, mesh=meshes.make_mesh(devices), top_k=2, layout=Layout(split, 64, 128)).values():
            for stratum in found.strata.values():
                assert (stratum.g == 0).all()
                np.testing.assert_array_equal(stratum.t, stratum.M)
            assert (found.top_id == [0, 1]).all()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_near_counts_candidates_within_a_millionth_of_the_threshold(precision):
    texts = np.array([[0.5], [0.5 + 3e-6], [0.5 + 5e-7], [0.5 - 5e-7], [0.5 - 3e-6], [-1]], np.float32)
    number = np.arange(6, dtype=np.int32)
    data = Records(np.ones((1, 1), np.float32), number[:1], texts, number, number, {})
    found = counts.count(data, mesh=meshes.make_mesh(1), top_k=2, precision=precision)["i2r"]
    np.testing.assert_array_equal(found.near, [[1, 3, 0]])
    assert (found.strata["other_patient"].g[0], found.strata["other_patient"].t[0]) == (2, 0)
    assert found.top_id.tolist() == [[1, 2]]


def test_an_unmasked_own_text_would_be_seen(monkeypatch):
    data = small(seed=6)
    honest = engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda *given: honest(*given)._replace(text=np.full(len(given[1]), -9, np.int32)))
    broken = count_small(data)
    with pytest.raises(AssertionError):
        check(data, broken, 3)


@pytest.mark.parametrize("side", ["images", "studies"])
def test_thresholds_that_no_tile_holds_are_refused(monkeypatch, side):
    data = small(seed=7, grid=False)
    honest = limits.best_own

    def nudged(own, *rest):
        best, image = honest(own, *rest)
        if side == "studies":
            return np.where(np.arange(len(best)) == data.image_study[0], np.nextafter(best, np.float32(9)), best), image
        own[3] = np.nextafter(own[3], np.float32(9))
        return best, image

    monkeypatch.setattr(limits, "best_own", nudged)
    with pytest.raises(errors.UnsoundError, match=f"scores changed between passes in counting pass.*others for 1 {side}"):
        count_small(data)


def longest(score, split, devices):
    """Returns the lists of 30 among 4096 studies of these scores, 512 in a tile, that 64 like images ask for."""
    number = np.arange(4096, dtype=np.int32)
    data = Records(np.ones((64, 1), np.float32), number[:64], score[:, None].astype(np.float32), number, number, {})
    layout = Layout(split, 256, 512)
    assert engine.Engine(data, meshes.make_mesh(devices), layout).shaped(sides.Wanted(k=30)).kept < 20
    return counts.count(data, mesh=meshes.make_mesh(devices), top_k=30, layout=layout, directions=("i2r",))["i2r"].top_id


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
def test_lists_from_too_few_groups_are_computed_again(monkeypatch):
    """With every score alike, no tile can show that what it left behind is worse than what it kept."""
    again, honest = [], loop._settle
    monkeypatch.setattr(loop, "_settle", lambda *given: (again.append(len(given[4])), honest(*given)))
    assert (longest(np.ones(4096), "images", 2) == np.arange(30)).all()
    assert again == [64]


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
@pytest.mark.parametrize(("split", "devices"), [("images", 2), ("studies", 4), ("ring", 4)])
@pytest.mark.parametrize("tile", [0, 7])
def test_lists_whose_best_lie_in_one_tile_are_exact(split, devices, tile):
    """The 30 best candidates are in 30 groups of one tile of 32 groups, of which far fewer are kept at first."""
    score = np.random.default_rng(0).permutation(4096) / 64
    best = 512 * tile + 16 * np.arange(30) + 5
    score[best] = 100 + np.random.default_rng(1).permutation(30)
    assert (longest(score, split, devices) == best[np.argsort(-score[best])]).all()


def test_memory_is_one_tile_not_the_score_matrix():
    data = records(3000, 4000, 8)
    work = engine.Engine(data, meshes.make_mesh(1), Layout(query_block=64, tile=128))
    wanted = sides.Wanted(codes=2, k=4, kept=4)
    inputs = work.batch(work.images.number[0], work.images.block[0], limits.nowhere(3000, 4000))
    columns = work.columns(limits.nowhere(3000, 4000))
    state = work.empty(wanted)
    compiled = sweep.program(meshes.make_mesh(1), wanted).lower(inputs, columns, state).compile()
    given = sum(array.nbytes for array in (*columns, *inputs, state))
    kept = 4000 // 128 * 64 * 4 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * given + 12 * 64 * 128 * 4 + 2 * kept < 3000 * 4000 * 4 / 6


@pytest.mark.parametrize("field", ["g", "t", "M"])
def test_recheck_refuses_each_wrong_integer(field):
    images, texts = np.array([[1, 0]], np.float32), np.array([[0.25, 0], [0.2499, 1]], np.float32)
    data = Records(images, np.zeros(1, np.int32), texts, np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32), {})
    wrong = counts.count(data, mesh=meshes.make_mesh(1), top_k=0)
    recheck.recheck(data, wrong)
    getattr(wrong["i2r"].strata["other_patient"], field)[:] += 1
    with pytest.raises(errors.UnsoundError, match="counts differ from float64"):
        recheck.recheck(data, wrong)
