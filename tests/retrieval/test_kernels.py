"""The kernels against the plain pass: the same integers, maxima and lists, interpreted step by step, and programs that TPUs and GPUs accept.

What compiles for long is slow: the default run counts one tile in each form, and one pass.
"""

import dataclasses
import re
import types

import brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_counts import records

from relink_jax import errors
from relink_jax.retrieval import counts, engine, exact, faster, kernels, kernels_hopper, kernels_tpu, limits, loop, product, sides, sweep, tally
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

QUICK = {"xla_backend_optimization_level": 0}  # halves what it takes to compile
FORMS = {"tpu": kernels_tpu, "hopper": kernels_hopper}


def interpreted(form):
    """Returns what interprets a form on CPUs. Mosaic GPU's interpreter has no public name, and it alone knows tensor cores, copies and barriers."""
    if form == "tpu":
        return True
    reason = "this jax keeps Mosaic GPU's interpreter elsewhere, if it has one"
    return pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.params", reason=reason).InterpretGPUParams()


def tile_counts(form, images, tile, wanted):
    """Returns what a form of the kernels counts in a tile, interpreted."""
    counted = lambda a, b: FORMS[form].tile_counts(a, b, wanted, interpret=interpreted(form))  # noqa: E731
    return jax.jit(counted, compiler_options=QUICK)(images, tile)


def pair_scores(form, vectors, candidates):
    """Returns scores of pairs by a form of the kernels, interpreted."""
    return jax.jit(lambda a, b: FORMS[form].pair_scores(a, b, interpret=interpreted(form)), compiler_options=QUICK)(vectors, candidates)


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
    ("form", "n_images", "n_studies", "dim", "codes", "blocks", "precision"),
    [
        pytest.param("tpu", 320, 256, 5, 1, 1, "float32", marks=pytest.mark.slow),
        ("tpu", 64, 384, 8, 0, 4, "bf16x3"),
        pytest.param("tpu", 256, 1024, 7, 2, 2, "bf16", marks=pytest.mark.slow),
        ("hopper", 80, 256, 9, 1, 1, "bf16"),
        pytest.param("hopper", 80, 256, 120, 2, 3, "bf16x3", marks=pytest.mark.slow),  # more steps along the rows than are on their way at once
    ],
)
def test_a_tile_is_counted_as_by_the_plain_pass(form, n_images, n_studies, dim, codes, blocks, precision):
    images, tile, wanted = sides_of(n_images, n_studies, dim, codes, blocks, precision)
    maxima, of_images, of_studies = jax.jit(lambda a, b: plain(a, b, wanted))(images, tile)
    found = tile_counts(form, images, tile, wanted)
    np.testing.assert_array_equal(found[0], maxima)
    np.testing.assert_array_equal(found[1], of_images)
    np.testing.assert_array_equal(found[2], of_studies)
    assert (np.asarray(of_images)[:, :-1].sum(axis=(0, 2)) > 0).all()
    assert (np.asarray(of_studies)[:, :-1].sum(axis=(0, 2)) > 0).all()


def test_scores_of_pairs_have_the_bits_of_the_tile():
    images, tile, wanted = sides_of(272, 128, 33, 0, 1, "float32", grid=False)
    wanted = dataclasses.replace(wanted, near=False, studies=False)
    maxima, _, of_studies = tile_counts("tpu", images, tile, wanted)
    assert of_studies is None
    for group in (0, 7):
        columns = slice(16 * group, 16 * group + 16)
        scores = pair_scores("tpu", images.vectors, jnp.tile(tile.vectors[:, columns].T, (272, 1)))
        np.testing.assert_allclose(scores, images.vectors @ tile.vectors[:, columns], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(jnp.max(jnp.where(tile.study[columns] >= 0, scores, -jnp.inf), axis=1), maxima[:, group])


@pytest.mark.parametrize("each", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_hopper_scores_pairs_of_whole_numbers_exactly(each):
    images, tile, _ = sides_of(80, 80 * each // 128 * 128 + 128, 30, 0, 1, "bf16x3")
    candidates = tile.vectors.T[: 80 * each]
    expected = np.einsum("rd,rcd->rc", np.asarray(images.vectors, np.float32), np.asarray(candidates, np.float32).reshape(80, each, -1))
    np.testing.assert_array_equal(pair_scores("hopper", images.vectors, candidates), expected)


def counted(data, devices, layout, k, kernel):
    """Returns (own scores, what a pass found), after the check that it met every true pair."""
    work = engine.Engine(data, meshes.make_mesh(devices), dataclasses.replace(layout, kernel="always" if kernel else "never"), k=k)
    wanted = sides.Wanted(codes=len(data.codes), k=k)
    own = work.own_scores(wanted)
    around = limits.exact(own, data.image_study, len(data.study_text))
    found = loop.run(work, wanted, around, "count")
    exact.check(found, around)
    return own, found


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert not kernels.supports(wanted, kernels.HOPPER)
    assert kernels.supports(dataclasses.replace(wanted, precision="bf16x3"), kernels.HOPPER)
    assert not kernels.chosen(mesh, wanted)
    for speed, wins in ((0.9, False), (1.1, True)):
        monkeypatch.setitem(kernels.FASTER, (mesh.devices.flat[0].device_kind, "float32"), speed)
        assert kernels.chosen(mesh, wanted) == wins
    assert not kernels.chosen(mesh, dataclasses.replace(wanted, within=True))


@pytest.mark.parametrize(("platform", "capability", "known"), [("gpu", "9.0", "hopper"), ("gpu", "10.0", "gpu"), ("gpu", "8.0", "gpu"), ("gpu", None, "gpu")])
def test_hopper_is_known_by_its_capability(platform, capability, known):
    device = types.SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))
    assert kernels.platform_of(device) == known
    assert kernels.platform_of(jax.devices("cpu")[0]) == "cpu"


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


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16x3", "bf16"])
def test_kernels_lower_to_mosaic_for_tpus_and_to_nothing_elsewhere(precision):
    (images, tile), wanted = shapes(precision)
    steps = {"tile_counts": (lambda a, b: kernels_tpu.tile_counts(a, b, wanted)), "pair_scores": (lambda a, b: kernels_tpu.pair_scores(a.vectors, b.vectors.T))}
    for step in steps.values():
        program = jax.export.export(jax.jit(step), platforms=["tpu"])(images, tile).mlir_module()
        assert program.count("stablehlo.custom_call @tpu_custom_call") == 1
        with pytest.raises(Exception, match="Compiler params for platform tpu cannot be used for gpu lowering"):
            jax.export.export(jax.jit(step), platforms=["cuda"])(images, tile)


MOSAIC_GPU = "mosaic_gpu_v2"


def calls(step, *given):
    """Returns the custom calls of a program for NVIDIA's GPUs; jax promises no stable form of Mosaic GPU's, so exporting must be told to go on."""
    stable = [jax.export.DisabledSafetyCheck.custom_call(MOSAIC_GPU)]
    program = jax.export.export(jax.jit(step), platforms=["cuda"], disabled_checks=stable)(*given).mlir_module()
    return re.findall(r"stablehlo\.custom_call @([\w$.]+)", program)


@pytest.mark.slow
@pytest.mark.parametrize("precision", kernels.PRECISIONS[kernels.HOPPER])
def test_kernels_lower_to_mosaic_for_hopper_and_never_to_triton(precision):
    (images, tile), wanted = shapes(precision)
    steps = (lambda a, b: kernels_hopper.tile_counts(a, b, wanted)), (lambda a, b: kernels_hopper.pair_scores(a.vectors, b.vectors.T))
    for step in steps:
        assert calls(step, images, tile) == [MOSAIC_GPU]


@pytest.mark.slow
def test_hopper_counts_and_lists_what_tpus_do_and_lowers_within_a_step(monkeypatch):
    images, tile, wanted = sides_of(80, 256, 5, 1, 1, "bf16")
    wanted = dataclasses.replace(wanted, k=5)
    apart = lambda array: jnp.moveaxis(array.reshape(*array.shape[:-1], 2, -1), -2, 0)  # noqa: E731
    studies = jax.tree.map(apart, tile._replace(first=tile.block))._replace(first=jnp.array([0, 128], jnp.int32))
    state = jnp.zeros((1, 2, wanted.study_answers + 1, 128), jnp.int32)

    def counting(form, how):
        def program(a, b, c):  # a new function for each form, so that none is taken from a cache
            return kernels.count(a, b, c, wanted)

        monkeypatch.setattr(kernels, "_form", lambda: FORMS[form])
        monkeypatch.setattr(kernels, "_interpreted", lambda: how)
        return program

    found, expected = (jax.jit(counting(form, interpreted(form)), compiler_options=QUICK)(images, studies, state) for form in ("hopper", "tpu"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert calls(counting("hopper", False), images, studies, state) == [MOSAIC_GPU] * 2


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


@pytest.mark.slow
def test_a_count_whose_leftovers_have_no_kernel_is_the_plain_one(monkeypatch):
    """As on Hopper: what bf16 leaves open is counted in float32, which has no kernel there."""
    monkeypatch.setitem(kernels.PRECISIONS, "cpu", ("bf16",))
    monkeypatch.setattr(faster, "INSIDE", 2)
    data, mesh = records(60, 150, 6, seed=6, codes=0), meshes.make_mesh(1)
    expected = counts.count(data, mesh=mesh, top_k=3, precision="bf16", layout=Layout("images", 64, 128))
    found = counts.count(data, mesh=mesh, top_k=3, precision="bf16", layout=Layout("images", 64, 128, kernel="always"))
    assert found["i2r"].settling["queries_recounted"] > 0
    for direction, one in found.items():
        np.testing.assert_array_equal(one.top_id, expected[direction].top_id)
        for name, stratum in one.strata.items():
            for field in "Mgt":
                np.testing.assert_array_equal(getattr(stratum, field), getattr(expected[direction].strata[name], field))
