"""The kernels against the plain pass: the same integers, maxima and lists, interpreted step by step, and programs that TPUs accept."""

import dataclasses

import brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_counts import records

from relink_jax import errors
from relink_jax.retrieval import engine, exact, kernels, kernels_tpu, limits, loop, product, sides, sweep, tally
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

QUICK = {"xla_backend_optimization_level": 0}  # halves what it takes to compile


def sides_of(n_images, n_studies, dim, codes, blocks, precision, seed=0, grid=True):
    """Returns a batch, a tile and what is wanted of them, with empty places, ties by the hundred and limits at true scores."""
    generator = np.random.default_rng(seed)

    def integers(high, n, low=-1):
        return generator.integers(low, high, n).astype(np.int32)

    draw = (lambda n: generator.integers(-2, 3, (n, dim)).astype(np.float32)) if grid else (lambda n: generator.standard_normal((n, dim), np.float32))
    images, texts = draw(n_images), draw(n_studies)
    study, place = integers(n_studies, n_images), np.where(generator.random(n_studies) < 0.1, -1, np.arange(n_studies)).astype(np.int32)
    scores, band = images @ texts.T, np.float32(precision != product.FLOAT32)
    own, best = scores[np.arange(n_images), np.maximum(study, 0)], integers(n_images, n_studies, -2)
    low, high = (np.where(study >= 0, own + sign * band, np.inf).astype(np.float32) for sign in (-1, 1))
    best_own = np.where(best >= 0, scores[np.maximum(best, 0), np.arange(n_studies)], np.inf).astype(np.float32)
    image_codes, study_codes = (generator.integers(low, 3, (codes, n)).astype(np.int32) for low, n in ((-1, n_images), (-2, n_studies)))
    image_block, study_block = (np.sort(generator.integers(0, blocks, n // 16)).astype(np.int32) for n in (n_images, n_studies))
    number = np.where(study >= 0, np.arange(n_images), -1).astype(np.int32)
    vectors = product.encode(images, precision), np.ascontiguousarray(product.encode(texts, precision, candidates=True).T)
    batch = sides.Images(vectors[0], number, study, integers(9, n_images), integers(20, n_images), image_codes, low, high, image_block)
    keys = integers(9, n_studies, -2), integers(20, n_studies, -2)
    tile = sides.Studies(vectors[1], place, *keys, study_codes, best_own - band, best_own + band, best, study_block, np.int32(0))
    spans, image_spans = (int(block[-1] - block[0]) + 1 for block in (study_block, image_block))
    wanted = sides.Wanted(codes=codes, precision=precision, near=precision == product.FLOAT32, blocks=blocks, spans=spans, image_spans=image_spans)
    return *jax.tree.map(jnp.asarray, (batch, tile)), wanted


def plain(images, tile, wanted):
    """Returns what the plain pass counts in a tile: maxima, counts of images, counts of studies."""
    scores = product.product(images.vectors, tile.vectors, wanted.precision)
    scores = jnp.where((tile.study >= 0)[None, :], scores, -jnp.inf)
    return *tally.count_images(scores, images, tile, wanted), tally.count_studies(scores, images, tile, wanted)


@pytest.mark.parametrize(
    ("n_images", "n_studies", "dim", "codes", "blocks", "precision"),
    [(320, 256, 5, 1, 1, "float32"), (64, 384, 8, 0, 4, "bf16x3"), (256, 1024, 7, 2, 2, "bf16")],
)
def test_a_tile_is_counted_as_by_the_plain_pass(n_images, n_studies, dim, codes, blocks, precision):
    images, tile, wanted = sides_of(n_images, n_studies, dim, codes, blocks, precision)
    maxima, of_images, of_studies = jax.jit(lambda a, b: plain(a, b, wanted))(images, tile)
    found = jax.jit(lambda a, b: kernels_tpu.tile_counts(a, b, wanted, interpret=True), compiler_options=QUICK)(images, tile)
    np.testing.assert_array_equal(found[0], maxima)
    np.testing.assert_array_equal(found[1], of_images)
    np.testing.assert_array_equal(found[2], of_studies)
    assert (np.asarray(of_images)[:, :-1].sum(axis=(0, 2)) > 0).all()
    assert (np.asarray(of_studies)[:, :-1].sum(axis=(0, 2)) > 0).all()


def test_scores_of_pairs_have_the_bits_of_the_tile():
    images, tile, wanted = sides_of(272, 128, 33, 0, 1, "float32", grid=False)
    wanted = dataclasses.replace(wanted, near=False, studies=False)
    maxima, _, of_studies = jax.jit(lambda a, b: kernels_tpu.tile_counts(a, b, wanted, interpret=True), compiler_options=QUICK)(images, tile)
    assert of_studies is None
    pairs = jax.jit(lambda a, b: kernels_tpu.pair_scores(a, b, interpret=True), compiler_options=QUICK)
    for group in (0, 7):
        columns = slice(16 * group, 16 * group + 16)
        scores = pairs(images.vectors, jnp.tile(tile.vectors[:, columns].T, (272, 1)))
        np.testing.assert_allclose(scores, images.vectors @ tile.vectors[:, columns], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(jnp.max(jnp.where(tile.study[columns] >= 0, scores, -jnp.inf), axis=1), maxima[:, group])


def counted(data, devices, layout, k, kernel):
    """Returns (own scores, what a pass found), after the check that it met every true pair."""
    work = engine.Engine(data, meshes.make_mesh(devices), dataclasses.replace(layout, kernel="always" if kernel else "never"), k=k)
    wanted = sides.Wanted(codes=len(data.codes), k=k)
    own = work.own_scores(wanted)
    around = limits.exact(own, data.image_study, len(data.study_text))
    found = loop.run(work, wanted, around, "count")
    exact.check(found, around)
    return own, found


@pytest.mark.parametrize(
    ("devices", "layout", "k", "blocks"),
    [(2, Layout("studies", 64, 128), 9, 0), (2, Layout("ring", 256, 128), 3, 3)],
)
def test_a_pass_finds_what_the_plain_one_does(devices, layout, k, blocks):
    data = records(259, 401, 4, blocks=blocks, codes=1)
    own, expected = counted(data, devices, layout, k, False)
    same, found = counted(data, devices, layout, k, True)
    np.testing.assert_array_equal(same, own)
    for field in ("per_image", "per_study", "top_id", "top_score"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)


def test_lists_of_real_numbers_are_those_of_float64_and_thresholds_are_met():
    data = records(90, 150, 24, seed=3, grid=False, codes=0)
    _, found = counted(data, 1, Layout("images", 64, 128), 8, True)
    np.testing.assert_array_equal(found.top_id, brute.top(data, "i2r", 8))


def test_lists_whose_groups_miss_their_maxima_are_made_again_by_the_plain_pass(monkeypatch):
    data = records(70, 150, 4, seed=4, codes=0)
    layout = Layout("images", 64, 128)
    _, expected = counted(data, 1, layout, 6, False)
    remade = []
    true_pairs, settle = kernels_tpu.pair_scores, loop._settle

    def wrong(vectors, candidates, **given):
        scores = true_pairs(vectors, candidates, **given)
        return scores if scores.shape[1] == 1 else scores + 1

    monkeypatch.setattr(kernels_tpu, "pair_scores", wrong)
    monkeypatch.setattr(loop, "_settle", lambda *given: (remade.append(len(given[4])), settle(*given)))
    sweep.program.cache_clear()
    _, found = counted(data, 1, layout, 6, True)
    sweep.program.cache_clear()
    assert remade == [70]
    np.testing.assert_array_equal(found.top_id, expected.top_id)
    np.testing.assert_array_equal(found.top_score, expected.top_score)


def test_a_kernel_is_chosen_only_where_it_was_measured_to_be_faster(monkeypatch):
    mesh, wanted = meshes.make_mesh(1), sides.Wanted()
    assert kernels.supports(wanted, "tpu")
    assert not kernels.chosen(mesh, wanted)
    for speed, faster in ((0.9, False), (1.1, True)):
        monkeypatch.setitem(kernels.FASTER, (mesh.devices.flat[0].device_kind, "float32"), speed)
        assert kernels.chosen(mesh, wanted) == faster
    assert not kernels.chosen(mesh, dataclasses.replace(wanted, within=True))


@pytest.mark.parametrize("other", [{"within": True}, {"precision": "tf32"}, {"k": 1000}])
def test_what_no_kernel_computes_is_refused(other):
    wanted, mesh = sides.Wanted(**other), meshes.make_mesh(1)
    assert not kernels.supports(wanted, "tpu")
    assert not kernels.supports(sides.Wanted(), "rocm")
    if wanted.within:
        assert not kernels.chosen(mesh, wanted, "always")
    else:
        with pytest.raises(errors.UsageError, match="no kernel"):
            kernels.chosen(mesh, wanted, "always")
    assert not kernels.chosen(mesh, wanted, "never")


def shapes(precision):
    images, tile, wanted = sides_of(512, 1024, 1, 2, 5, precision)
    width, dtype = product.width(512, precision), images.vectors.dtype
    images, tile = images._replace(vectors=jnp.zeros((512, width), dtype)), tile._replace(vectors=jnp.zeros((width, 1024), dtype))
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (images, tile)), wanted


@pytest.mark.parametrize("precision", ["float32", "bf16x3", "bf16"])
def test_kernels_lower_to_mosaic_for_tpus_and_to_nothing_elsewhere(precision):
    (images, tile), wanted = shapes(precision)
    steps = {"tile_counts": (lambda a, b: kernels_tpu.tile_counts(a, b, wanted)), "pair_scores": (lambda a, b: kernels_tpu.pair_scores(a.vectors, b.vectors.T))}
    for step in steps.values():
        program = jax.export.export(jax.jit(step), platforms=["tpu"])(images, tile).mlir_module()
        assert program.count("stablehlo.custom_call @tpu_custom_call") == 1
        with pytest.raises(Exception, match="Compiler params for platform tpu cannot be used for gpu lowering"):
            jax.export.export(jax.jit(step), platforms=["cuda"])(images, tile)


@pytest.mark.slow
@pytest.mark.parametrize("chips", ["v4:2x2x1", "v5e:2x2", "v6e:2x2"])
def test_tpu_compilers_accept_the_kernels(chips, monkeypatch):
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    device = jax.sharding.SingleDeviceSharding(topologies.get_topology_desc(chips, "tpu").devices[0])
    for precision in kernels.PRECISIONS["tpu"]:
        given, wanted = shapes(precision)
        images, tile = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device), given)
        jax.jit(lambda a, b, w=wanted: kernels_tpu.tile_counts(a, b, w)).lower(images, tile).compile()
        jax.jit(lambda a, b: kernels_tpu.pair_scores(a.vectors, b.vectors.T)).lower(images, tile).compile()
