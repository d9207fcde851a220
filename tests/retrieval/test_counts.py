"""The streamed pass against dense float64 counting, on every mesh, block and tile, with thousands of ties."""

import brute
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import counts, recheck, sweep, tiles
from relink_jax.runtime import mesh as meshes


def records(n_images, n_studies, dim, seed=0, grid=True, exclusion="patient"):
    """Returns records with duplicated reports (some across patients), duplicated images, unlabelled studies and studies without images."""
    generator = np.random.default_rng(seed)
    texts = generator.integers(-2, 3, (n_studies, dim)) if grid else generator.standard_normal((n_studies, dim))
    source = np.where(generator.random(n_studies) < 0.3, generator.integers(0, 4, n_studies), np.arange(n_studies))
    texts = texts.astype(np.float32)[source]
    first, study_text = tiles.unique_rows(texts)
    image_study = generator.integers(0, n_studies, n_images).astype(np.int32)
    noise = generator.integers(-1, 2, (n_images, dim)) if grid else generator.standard_normal((n_images, dim))
    images = (texts[image_study] + noise).astype(np.float32)
    images[generator.integers(0, n_images, n_images // 6)] = images[0]
    patient = (np.arange(n_studies) // 2 if exclusion == "patient" else np.arange(n_studies)).astype(np.int32)
    return counts.Records(images, image_study, texts[first], study_text, patient, generator.integers(-1, 3, n_studies).astype(np.int32))


def flat(counted):
    """Returns every integer of a result by name."""
    out = {}
    for direction, found in counted.items():
        out |= {f"{direction}/query": found.query, f"{direction}/top": found.top_id}
        for name, stratum in found.strata.items():
            out |= {f"{direction}/{name}/{field}": getattr(stratum, field) for field in "Mgt"}
    return out


def check(data, counted, k):
    for direction, found in counted.items():
        for row, query in enumerate(found.query):
            got = {name: (stratum.M[row], stratum.g[row], stratum.t[row]) for name, stratum in found.strata.items()}
            assert got == brute.count(data, direction, query), (direction, query)
            assert found.top_id[row].tolist() == brute.top(data, direction, query, k).tolist()


@pytest.mark.parametrize(
    ("n_images", "n_studies", "devices", "block", "tile", "k", "exclusion"),
    [(131, 97, 1, 40, 128, 3, "patient"), (259, 301, 4, 64, 128, 10, "study"), (7, 5, 8, 1024, 2048, 10, "patient")],
)
def test_equals_dense_counting(n_images, n_studies, devices, block, tile, k, exclusion):
    data = records(n_images, n_studies, 4, exclusion=exclusion)
    counted = counts.count(data, mesh=meshes.make_mesh(devices), top_k=k, query_block=block, tile=tile)
    assert sum(int(stratum.t.sum()) for found in counted.values() for stratum in found.strata.values()) > 0
    check(data, counted, min(k, 10))


def test_same_integers_on_any_mesh_block_and_tile():
    data = records(333, 401, 5, seed=1)
    reference = flat(counts.count(data, mesh=meshes.make_mesh(1), top_k=7))
    for devices, block, tile in [(1, 32, 128), (2, 100, 256), (4, 333, 128), (8, 64, 2048)]:
        for name, array in flat(counts.count(data, mesh=meshes.make_mesh(devices), top_k=7, query_block=block, tile=tile)).items():
            np.testing.assert_array_equal(array, reference[name], err_msg=f"{name} on {devices} devices, block {block}, tile {tile}")


def test_order_of_candidates_and_queries_does_not_matter():
    data = records(150, 120, 5, seed=2)
    reference = counts.count(data, mesh=meshes.make_mesh(2), top_k=0)
    generator = np.random.default_rng(0)
    image_order, study_order = generator.permutation(150), generator.permutation(120)
    renumber = np.argsort(study_order).astype(np.int32)
    shuffled_texts = data.texts[data.study_text[study_order]]
    first, text = tiles.unique_rows(shuffled_texts)
    moved = counts.Records(
        data.images[image_order],
        renumber[data.image_study[image_order]],
        shuffled_texts[first],
        text,
        data.exclusion[study_order],
        data.study_code[study_order],
    )
    found = counts.count(moved, mesh=meshes.make_mesh(2), top_k=0)
    for name in ("other_patient", "label_matched"):
        for field in "Mgt":
            np.testing.assert_array_equal(getattr(found["i2r"].strata[name], field), getattr(reference["i2r"].strata[name], field)[image_order])
            back = dict(zip(study_order[found["r2i"].query], getattr(found["r2i"].strata[name], field), strict=True))
            assert [back[query] for query in reference["r2i"].query] == getattr(reference["r2i"].strata[name], field).tolist()


def test_monotone_transform_of_scores_changes_nothing():
    data = records(150, 120, 5, seed=3)
    scaled = counts.Records(data.images * 4, data.image_study, data.texts, data.study_text, data.exclusion, data.study_code)
    first, second = (flat(counts.count(one, mesh=meshes.make_mesh(1), top_k=4)) for one in (data, scaled))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_real_embeddings_agree_with_float64_outside_rounding():
    data = records(300, 250, 16, seed=4, grid=False)
    counted = counts.count(data, mesh=meshes.make_mesh(4), top_k=3, query_block=128)
    found = recheck.recheck(data, counted, n_queries=300)
    assert found["queries"] >= 400
    assert found["identical"] > 0.95 * found["strata_checked"]


def test_recheck_refuses_a_wrong_count():
    data = records(60, 50, 6, seed=5, grid=False)
    counted = counts.count(data, mesh=meshes.make_mesh(1), top_k=0)
    counted["i2r"].strata["other_patient"].g[:] += 1
    with pytest.raises(errors.UnsoundError, match="counts differ from float64 in recheck of i2r other_patient"):
        recheck.recheck(data, counted)


def test_constant_embeddings_tie_with_everything():
    generator = np.random.default_rng(0)
    row = generator.standard_normal((1, 24)).astype(np.float32)
    n_images, n_studies = 700, 500
    image_study = generator.integers(0, n_studies, n_images).astype(np.int32)
    data = counts.Records(
        np.repeat(row, n_images, 0),
        image_study,
        row[:, ::-1].copy(),
        np.zeros(n_studies, np.int32),
        (np.arange(n_studies) // 3).astype(np.int32),
        np.zeros(n_studies, np.int32),
    )
    for devices in (1, 4):
        for found in counts.count(data, mesh=meshes.make_mesh(devices), top_k=2, query_block=64, tile=128).values():
            for stratum in found.strata.values():
                assert (stratum.g == 0).all()
                np.testing.assert_array_equal(stratum.t, stratum.M)
            assert (found.top_id == [0, 1]).all()


def test_an_unmasked_own_group_would_be_seen(monkeypatch):
    data = records(80, 60, 4, seed=6)
    honest = counts._image_side
    monkeypatch.setattr(counts, "_image_side", lambda *given: honest(*given)._replace(text=np.full_like(honest(*given).text, -9)))
    broken = counts.count(data, mesh=meshes.make_mesh(1), top_k=3)
    with pytest.raises(AssertionError):
        check(data, broken, 3)


def test_scores_that_change_between_passes_are_refused(monkeypatch):
    data = records(40, 30, 4, seed=7)
    honest, calls = sweep.program, []

    def unstable(*arguments):
        step = honest(*arguments)

        def drifting(*inputs):
            image_state, study_state = step(*inputs)
            calls.append(1)
            return image_state._replace(own=image_state.own + (0 if len(calls) == 1 else 1)), study_state

        return drifting

    monkeypatch.setattr(sweep, "program", unstable)
    with pytest.raises(errors.UnsoundError, match="scores changed between passes in counting pass"):
        counts.count(data, mesh=meshes.make_mesh(1), top_k=3)


def test_texts_must_be_numbered_by_first_study():
    data = records(10, 8, 4)
    wrong = counts.Records(
        data.images, data.image_study, data.texts[::-1].copy(), (len(data.texts) - 1 - data.study_text).astype(np.int32), data.exclusion, data.study_code
    )
    with pytest.raises(errors.DataError, match="texts out of order"):
        counts.count(wrong, mesh=meshes.make_mesh(1))


def test_memory_is_one_tile_not_the_score_matrix():
    data = records(3000, 4000, 8)
    images, studies = tiles.pack(tiles.unique_rows(data.images)[1], 64), tiles.pack(data.study_text, 128)
    columns = counts._study_side(data, studies)
    block = counts._image_side(data, images, tiles.unique_rows(data.images)[0], np.arange(1), np.zeros(3000, np.float32))
    state = sweep.empty_studies(*columns.group.shape, 4)
    compiled = sweep.program(meshes.make_mesh(1), 4, True, True).lower(block, columns, state, np.int32(0), np.int32(1)).compile()
    inputs = sum(array.nbytes for array in (*columns, *block, *state))
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * inputs + 12 * 64 * 128 * 4 < 3000 * 4000 * 4 / 10


@pytest.mark.parametrize("field", ["g", "t", "M"])
def test_recheck_refuses_each_wrong_integer(field):
    images, texts = np.array([[1, 0]], np.float32), np.array([[0.25, 0], [0.2499, 1]], np.float32)
    data = counts.Records(images, np.zeros(1, np.int32), texts, np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32), np.full(2, -1, np.int32))
    counted = counts.count(data, mesh=meshes.make_mesh(1), top_k=0)
    recheck.recheck(data, counted)
    getattr(counted["i2r"].strata["other_patient"], field)[:] += 1
    with pytest.raises(errors.UnsoundError, match="counts differ from float64"):
        recheck.recheck(data, counted)
