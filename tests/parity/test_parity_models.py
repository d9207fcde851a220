"""Every published layout: its files through the converter and our towers in float64, held against the oracle, and mutants that must not pass.

An absolute difference of 1e-9 is allowed on block outputs, on features before the head and on unit-norm embeddings. A mutant is a change
of our spec or parameters that a wrong reading of the checkpoint would make; each must differ by more than that (tests/oracles/ says what is
right, and test_parity_oracles.py that the oracles are).
"""

import dataclasses

import against_oracle as against
import jax
import numpy as np
import pytest

from relink_jax.encoders import convert

pytestmark = pytest.mark.parity
pytest.importorskip("torch")

from oracles import clip, families, make  # noqa: E402

TORCHSCRIPT = "clip-openai"
PRE_NORM = ("clip-hf", "clip-msgpack", "clip-openai", "pubmedclip", "chexzero", "xrayclip")
PACKED = ("clip-openai", "chexzero", "biomedclip", "siglip")
VIT = (*PRE_NORM, "biomedclip", "siglip")
BERT = ("biomedclip", "biovil", "biovil-t", "cxr-clip-resnet", "cxr-clip-swin", "medclip-resnet", "medclip-swin", "gloria")
RESNET = ("biovil", "biovil-t", "cxr-clip-resnet", "medclip-resnet", "gloria")
SWIN = ("cxr-clip-swin", "medclip-swin")
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
EPSILONS = (1e-5, 1e-6, 1e-12)


@dataclasses.dataclass(frozen=True)
class Case:
    """One family's checkpoint, converted, with inputs and the oracle's outputs."""

    spec: object
    tree: dict
    inputs: tuple
    expected: dict

    def worst(self, spec=None, tree=None):
        """The largest difference to the oracle, under a mutant if one is given; patches are seen."""
        return against.worst(against.run(spec or self.spec, tree or self.tree, *self.inputs, compiled=tree is not None), self.expected)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Returns a case by family; conversions are made once."""
    made = {}

    def get(family):
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            oracle = families.build(family, directory)
            spec = against.spec_of(directory, family, oracle.geometry)
            inputs = oracle.inputs(3)
            made[family] = Case(spec, against.tree_of(convert.convert(spec, trust_pickle=family == TORCHSCRIPT)), inputs, oracle.reference(*inputs))
        return made[family]

    return get


def _seen(difference):
    assert difference > 10 * against.TOLERANCE


def _each(sides, family):
    return [pytest.param(name, side, id=f"{name}-{side}") for name in family for side in sides]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_blocks_features_and_embeddings_equal_the_oracle(case, family):
    one = case(family)
    found = against.differences(against.run(one.spec, one.tree, *one.inputs), one.expected)
    assert {name: value for name, value in found.items() if value > against.TOLERANCE} == {}
    assert {"image_block_0", "text_block_0", "image_features", "text_features", "image_embeddings", "text_embeddings"} <= set(found)


def test_a_prior_image_goes_through_the_temporal_pooler(tmp_path):
    oracle = families.build("biovil-t", tmp_path)
    spec = against.spec_of(tmp_path, "biovil-t", oracle.geometry)
    tree = against.tree_of(convert.convert(spec))
    (pixels, ids), (prior, _) = oracle.inputs(3), oracle.inputs(4)
    expected = oracle.reference(pixels, ids, prior)
    assert against.worst(against.run(spec, tree, pixels, ids, prior), expected) <= against.TOLERANCE
    _seen(against.worst(against.run(spec, tree, prior, ids, pixels), expected))
    for first, second in (("q_proj", "k_proj"), ("k_proj", "v_proj"), ("norm1", "norm2")):
        image = {**tree["image"], "pooler": against.renamed(tree["image"]["pooler"], first, second)}
        _seen(against.worst(against.run(spec, {**tree, "image": image}, pixels, ids, prior), expected))
    types = {**tree["image"]["pooler"], "type_embedding": tree["image"]["pooler"]["type_embedding"][::-1]}
    _seen(against.worst(against.run(spec, {**tree, "image": {**tree["image"], "pooler": types}}, pixels, ids, prior), expected))


@pytest.mark.parametrize(("family", "side"), [*_each(("image",), (*VIT, *SWIN)), *_each(("text",), families.FAMILIES)])
def test_another_activation_is_seen(case, family, side):
    one = case(family)
    tower = getattr(one.spec, side)
    right = tower.stack.act if hasattr(tower, "stack") else tower.act
    for act in ACTIVATIONS:
        if act != right:
            _seen(one.worst(against.with_tower(one.spec, side, act=act)))


@pytest.mark.parametrize(("family", "side"), _each(against.SIDES, families.FAMILIES))
def test_another_epsilon_is_seen(case, family, side):
    one = case(family)
    tower = getattr(one.spec, side)
    right = tower.stack.epsilon if hasattr(tower, "stack") else tower.epsilon
    for epsilon in EPSILONS:
        if epsilon != right:
            _seen(one.worst(against.with_tower(one.spec, side, epsilon=epsilon)))


@pytest.mark.parametrize("family", PRE_NORM)
def test_a_dropped_pre_norm_is_seen(case, family):
    one = case(family)
    _seen(one.worst(against.with_tower(one.spec, "image", pre_norm=False)))


@pytest.mark.parametrize(("family", "side"), [*_each(("image",), (*VIT, *SWIN)), *_each(("text",), families.FAMILIES)])
@pytest.mark.parametrize("parts", ["q_proj k_proj", "k_proj v_proj"])
def test_swapped_projections_are_seen(case, family, side, parts):
    one = case(family)
    _seen(one.worst(tree={**one.tree, side: against.renamed(one.tree[side], *parts.split())}))


@pytest.mark.parametrize(("family", "side"), [*_each(("image",), (*VIT, *SWIN)), *_each(("text",), families.FAMILIES)])
def test_a_missing_transpose_of_any_square_matrix_is_seen(case, family, side):
    one = case(family)
    leaves = zip(against.paths(one.tree[side]), jax.tree.leaves(one.tree[side]), strict=True)
    square = [path for path, leaf in leaves if leaf.ndim == 2 and path.endswith("kernel") and leaf.shape[0] == leaf.shape[1]]
    assert square
    for name in {path.split("/")[-2] for path in square}:
        chosen = next(path for path in square if path.split("/")[-2] == name)
        mutant = against.changed(one.tree[side], lambda path, leaf, chosen=chosen: leaf.T if path == chosen else leaf)
        _seen(one.worst(tree={**one.tree, side: mutant}))


def test_a_missing_transpose_of_a_square_projection_is_seen(tmp_path):
    square = {**clip.SIZES["tiny"], "text": (24, 2, 2, 56), "vision": (24, 2, 2, 40)}
    for family, build in (("clip-hf", clip.build_hf("clip-hf")), ("chexzero", clip.build_chexzero)):
        directory = tmp_path / family
        directory.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(clip.SIZES, "square", square)
            oracle = build(directory, 0, "square")
        spec = against.spec_of(directory, family, oracle.geometry)
        tree, inputs = against.tree_of(convert.convert(spec)), oracle.inputs(3)
        expected = oracle.reference(*inputs)
        assert against.worst(against.run(spec, tree, *inputs), expected) <= against.TOLERANCE
        for side in against.SIDES:
            assert len(set(tree["heads"][side]["kernel"].shape)) == 1
            heads = {**tree["heads"], side: {"kernel": tree["heads"][side]["kernel"].T}}
            _seen(against.worst(against.run(spec, {**tree, "heads": heads}, *inputs), expected))


@pytest.mark.parametrize(
    ("family", "side", "pools"),
    [
        *((family, "text", ("cls", "sep", "three_layers", "last_four")) for family in BERT),
        *((family, "image", ("first", "mean")) for family in SWIN),
        *((family, "text", ("eos", "last")) for family in (*PRE_NORM, "siglip")),
    ],
)
def test_another_pool_is_seen(case, family, side, pools):
    one = case(family)
    right = getattr(one.spec, side).pool
    assert right in pools
    for pool in pools:
        if pool != right:
            _seen(one.worst(against.with_tower(one.spec, side, pool=pool)))


@pytest.mark.parametrize("family", ["biovil", "biovil-t"])
def test_pooling_before_the_patch_head_is_seen(case, family):
    one = case(family)
    features = one.expected["image_features"].mean(axis=1, keepdims=True)
    embeddings = np.asarray(against.heads_lib.project(one.tree["heads"]["image"], features))
    _seen(np.abs(embeddings - one.expected["image_embeddings"]).max())


@pytest.mark.parametrize("family", [*PRE_NORM, "siglip"])
def test_another_direction_of_attention_is_seen(case, family):
    one = case(family)
    _seen(one.worst(against.with_tower(one.spec, "text", causal=not one.spec.text.causal)))


@pytest.mark.parametrize("family", BERT)
def test_attended_padding_is_seen(case, family):
    one = case(family)
    _seen(one.worst(against.with_tower(one.spec, "text", pad_id=-1)))


@pytest.mark.parametrize("family", PRE_NORM)
def test_another_end_token_is_seen_and_the_old_rule_finds_the_same_one(case, family):
    one = case(family)
    highest = one.spec.text.vocab_size - 1
    assert one.spec.text.eos_token_id in (2, highest)
    for eos in (2, highest):
        assert one.worst(against.with_tower(one.spec, "text", eos_token_id=eos)) <= against.TOLERANCE
    _seen(one.worst(against.with_tower(one.spec, "text", eos_token_id=highest - 1)))


@pytest.mark.parametrize(("family", "side"), [*_each(("image",), VIT), *_each(("text",), families.FAMILIES)])
def test_another_number_of_heads_is_seen(case, family, side):
    one = case(family)
    _seen(one.worst(against.with_tower(one.spec, side, heads=1)))


@pytest.mark.parametrize(("family", "side"), _each(against.SIDES, families.FAMILIES))
def test_any_dropped_kind_of_bias_is_seen(case, family, side):
    one = case(family)
    kinds = {path.split("/")[-2] for path in against.paths(one.tree[side]) if path.endswith("/bias") and "pooler" not in path} - {"k_proj"}
    for kind in sorted(kinds):

        def dropped(path, leaf, kind=kind):
            return leaf * 0 if path.endswith(f"{kind}/bias") and "pooler" not in path else leaf

        _seen(one.worst(tree={**one.tree, side: against.changed(one.tree[side], dropped)}))


@pytest.mark.parametrize("family", families.FAMILIES)
def test_any_changed_array_of_a_head_is_seen(case, family):
    one = case(family)
    for side in against.SIDES:
        paths = against.paths(one.tree["heads"][side])
        for chosen in paths:

            def mutated(path, leaf, chosen=chosen):
                return leaf if path != chosen else leaf[::-1] if path.endswith("kernel") else leaf * 1.001

            head = against.changed(one.tree["heads"][side], mutated)
            _seen(one.worst(tree={**one.tree, "heads": {**one.tree["heads"], side: head}}))


@pytest.mark.parametrize("family", RESNET)
@pytest.mark.parametrize("parts", ["scale var", "mean bias"])
def test_swapped_batch_norm_arrays_are_seen(case, family, parts):
    one = case(family)
    _seen(one.worst(tree={**one.tree, "image": against.renamed(one.tree["image"], *parts.split())}))


@pytest.mark.parametrize("family", RESNET)
def test_padding_on_one_side_only_is_seen(case, family, monkeypatch):
    one = case(family)
    against.same_padding(monkeypatch)
    _seen(one.worst())


def test_a_missing_resize_is_seen(case):
    one = case("gloria")
    _seen(one.worst(against.with_tower(one.spec, "image", resize=0)))


@pytest.mark.parametrize("family", SWIN)
def test_a_transposed_bias_table_is_seen(case, family):
    one = case(family)

    def flipped(path, leaf):
        return leaf[::-1] if path.endswith("relative_position_bias") else leaf

    _seen(one.worst(tree={**one.tree, "image": against.changed(one.tree["image"], flipped)}))


@pytest.mark.parametrize("family", make.STORED)
def test_committed_goldens_are_those_of_the_oracle(tmp_path, family):
    committed, fresh = np.load(make.GOLDENS / family / "oracle.npz"), make.make(family, tmp_path / family)
    assert sorted(committed.files) == sorted(fresh)
    for name, array in fresh.items():
        np.testing.assert_allclose(committed[name], array, atol=against.TOLERANCE)
    files = {path.name for path in (make.GOLDENS / family).iterdir()} - {"oracle.npz"}
    assert files == {path.name for path in (tmp_path / family).iterdir()}
