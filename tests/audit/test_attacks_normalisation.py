"""Score normalisation: the worked example, planted hubs that it undoes, and spaces in which nothing can be found."""

import math
from fractions import Fraction

import attacked
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit import uncertainty
from relink_jax.audit.attacks import bank, base, cosine, hubness, listing, normalisation
from relink_jax.audit.sample import Sample

O11 = np.array([[5, 2, 2], [6, 5, 2], [3, 2, 3]], float)
BANKS = (base.INDUCTIVE, base.TRANSDUCTIVE)

pytestmark = pytest.mark.usefixtures("quick_module")


def up_to_each_image(values):
    """Returns scores [Q, U] less what no ranking of reports depends on."""
    return values - values.mean(axis=1, keepdims=True)


def example(n_bank=3):
    """Returns the worked example's scores of three images by three reports as a target whose bank, of either kind, is these images."""
    same = attacked.people(O11[:n_bank], np.eye(3)[:n_bank]) if n_bank == 3 else None
    return attacked.target(attacked.people(O11, np.eye(3)), same)


def test_inverted_softmax_of_the_worked_example():
    """Base-2 column sums are 104, 40 and 16; along its row every image finds its own report."""
    given = example()
    natural = 1 / (math.log(2) * bank.scored(given, base.INDUCTIVE).unit)
    rows = [
        [Fraction(4, 13), Fraction(1, 10), Fraction(1, 4)],
        [Fraction(8, 13), Fraction(4, 5), Fraction(1, 4)],
        [Fraction(1, 13), Fraction(1, 10), Fraction(1, 2)],
    ]
    for kind in BANKS:
        space = normalisation.InvertedSoftmax(natural, kind).space(given)
        np.testing.assert_allclose(up_to_each_image(attacked.scores(space)), up_to_each_image(np.log2(np.array(rows, float))), atol=1e-5)
        assert attacked.counted(space, given.inputs).tolist() == [1, 1, 1]


def test_csls_of_the_worked_example():
    given = example()
    for kind in BANKS:
        space = normalisation.CSLS(2, kind).space(given)
        rows = np.array([[1, -3, -2], [1, 1, -4], [-2.5, -2.5, 0.5]])
        np.testing.assert_allclose(up_to_each_image(attacked.scores(space)), up_to_each_image(rows), atol=1e-6)
        found = attacked.counted(space, given.inputs)
        assert found.tolist() == [1, 0.5, 1]
        assert found.mean() == pytest.approx(5 / 6)


def test_hubs_of_the_worked_example():
    """The first report is nearest to all three images, the third by lower number among equals; plain cosine finds 1, 0 and 1/2."""
    given = example()
    assert attacked.counted(cosine.Cosine().space(given), given.inputs).tolist() == [1, 0, 0.5]
    order = np.argsort(-O11, axis=1, kind="stable")
    assert np.bincount(order[:, 0], minlength=3).tolist() == [3, 0, 0]
    found = hubness.hubness(order[:, :1], 3)
    assert found["max_n1"] == 3
    assert found["n10_skew"] == pytest.approx(1 / math.sqrt(2))


def test_z_norm_is_the_z_score_up_to_each_image():
    given = attacked.target(attacked.planted(1, hub=0.5), attacked.planted(2, hub=0.5))
    for kind, images in ((base.INDUCTIVE, given.auxiliary.images), (base.TRANSDUCTIVE, given.inputs.images)):
        plain = np.asarray(images, np.float64) @ given.inputs.texts.T.astype(np.float64)
        wanted = (attacked.scores(cosine.Cosine().space(given)) - plain.mean(axis=0)) / plain.std(axis=0)
        found = attacked.scores(normalisation.ZNorm(kind).space(given))
        np.testing.assert_allclose(found / np.sqrt(plain.var(axis=0).mean()), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def hubs():
    """Returns (hub-free audited people, the same with hubs, a bank of others, Recall@1 with its interval as a function of a space)."""
    free, hubbed, others = attacked.planted(5), attacked.planted(5, hub=0.6), attacked.planted(6)
    sample = Sample(np.arange(attacked.N), attacked.N, uncertainty.Bootstrap(400, 0.95, 0))
    return free, hubbed, others, lambda space, audited: sample.mean(attacked.counted(space, audited))


@pytest.mark.parametrize("kind", BANKS)
def test_hubs_lower_cosine_and_normalisation_undoes_them(hubs, kind):
    free, hubbed, others, measured = hubs
    given = attacked.target(hubbed, others)
    clean, spoilt = (measured(cosine.Cosine().space(attacked.target(one)), one) for one in (free, hubbed))
    assert spoilt["ci"]["high"] < clean["ci"]["low"]
    for attack in (normalisation.ZNorm(kind), normalisation.InvertedSoftmax(1.0, kind)):
        undone = measured(attack.space(given), hubbed)
        assert undone["ci"]["low"] > spoilt["ci"]["high"]
        assert undone["ci"]["low"] < clean["value"] < undone["ci"]["high"]
    halved = measured(normalisation.CSLS(bank=kind).space(given), hubbed)
    assert halved["ci"]["low"] > spoilt["ci"]["high"]


def test_what_a_report_adds_to_all_its_scores_vanishes_or_halves(hubs):
    """z-norm and inverted softmax do not see an added constant at all, CSLS sees half of it beside 2 s."""
    free, hubbed, others, _ = hubs
    pair = [attacked.target(one, others) for one in (free, hubbed)]
    lift = (hubbed.texts - free.texts)[:, -1].astype(np.float64)
    for attack, left in ((normalisation.ZNorm(), 0), (normalisation.InvertedSoftmax(), 0), (normalisation.CSLS(), 1)):
        one, other = (up_to_each_image(attacked.scores(attack.space(given))) for given in pair)
        np.testing.assert_allclose(other - one, np.tile(left * (lift - lift.mean()), (len(one), 1)), atol=1e-5)


def test_an_inductive_bank_never_reads_the_targets_images():
    others = attacked.planted(6)
    audited = attacked.planted(7)
    strangers = attacked.people(attacked.planted(8).images[::-1] * 2, audited.texts)
    for attack in (normalisation.ZNorm, normalisation.CSLS, normalisation.InvertedSoftmax):
        inductive, transductive = ([attack(bank=kind).space(attacked.target(one, others)).texts for one in (audited, strangers)] for kind in BANKS)
        np.testing.assert_array_equal(*inductive)
        assert not np.array_equal(*transductive)


def test_order_of_candidates_does_not_matter():
    audited = attacked.planted(7, hub=0.3)
    order = np.random.default_rng(0).permutation(attacked.N)
    turned = attacked.people(audited.images, audited.texts[order], np.argsort(order))
    given, other = (attacked.target(one, attacked.planted(6)) for one in (audited, turned))
    for attack in listing.every(("znorm", "csls", "inverted_softmax", "sinkhorn", "assignment")):
        np.testing.assert_allclose(attacked.scores(attack.space(other)), attacked.scores(attack.space(given))[:, order], atol=3e-5)
        np.testing.assert_allclose(attacked.recall(attack.space(other), turned), attacked.recall(attack.space(given), audited))


def test_no_attack_finds_anything_in_a_destroyed_space():
    """Images and reports are independent random vectors, with hubs: every attack stays within 4 standard errors of chance."""
    generator = np.random.default_rng(3)
    n = 2 * attacked.N
    images, texts = (np.column_stack([generator.standard_normal((n, attacked.DIM)), column]) for column in (np.ones(n), generator.standard_normal(n)))
    given = attacked.target(attacked.people(images, texts))
    few = 4 * math.sqrt(1 / n * (1 - 1 / n) / n)
    for attack in listing.every(("znorm", "csls", "inverted_softmax", "sinkhorn", "assignment", "study_mean")):
        assert abs(attacked.recall(attack.space(given), given.inputs).mean() - 1 / n) < few, attack


@pytest.mark.parametrize("same", ["images", "texts", "both", "bank"])
def test_embeddings_that_are_all_equal_give_chance(same):
    n = 30
    audited, others = attacked.planted(1, n=n), attacked.planted(2, n=n)
    images = np.tile(audited.images[:1], (n, 1)) if same in ("images", "both") else audited.images
    texts = np.tile(audited.texts[:1], (n, 1)) if same in ("texts", "both") else audited.texts
    bank_rows = np.tile(others.images[:1], (n, 1)) if same != "texts" else others.images
    given = attacked.target(attacked.people(images, texts), attacked.people(bank_rows, others.texts))
    for attack in listing.every(("znorm", "csls", "inverted_softmax", "sinkhorn", "assignment", "study_mean")):
        space = attack.space(given)
        assert np.isfinite(attacked.scores(space)).all()
        if same == "bank":
            assert attacked.recall(space, given.inputs).mean() > 5 / n
        else:
            assert attacked.recall(space, given.inputs).mean() == pytest.approx(1 / n)


@pytest.mark.parametrize("side", ["images", "texts", "both"])
def test_a_collapsed_space_hides_nothing_from_who_takes_the_common_part_off(side):
    """All cosines lie within 1e-9 of each other, so their float32 products rank by rounding; the vectors still hold what they held."""
    audited, others = attacked.planted(1, noise=0.2), attacked.planted(2, noise=0.2)

    def pressed(rows, by):
        return np.column_stack([1e-4 * rows[:, :-1], np.full(len(rows), 3.0)]) if by else np.column_stack([rows[:, :-1], np.full(len(rows), 3.0)])

    by_images, by_texts = side in ("images", "both"), side in ("texts", "both")
    one, two = (attacked.people(pressed(held.images, by_images), pressed(held.texts, by_texts)) for held in (audited, others))
    given = attacked.target(one, two)
    at_large = attacked.target(audited, others)
    lost = attacked.counted(cosine.Cosine().space(given), one).mean()
    for attack in listing.every(("znorm", "csls", "inverted_softmax", "sinkhorn")):
        space = attack.space(given)
        found, wanted = (attacked.recall(made, one).mean() for made in (space, attack.space(at_large)))
        assert found > 0.95 * wanted > (6 if side == "both" else 0) * lost
        assert attacked.scores(space).std() > 1e-3


def test_csls_of_a_collapsed_space_keeps_what_reports_add():
    audited, others = attacked.planted(1, noise=0.2), attacked.planted(2, noise=0.2)
    lift = 3 + 1e-4 * np.random.default_rng(0).standard_normal(attacked.N)
    texts = np.column_stack([audited.texts[:, :-1], lift])
    images, held = (np.column_stack([1e-4 * one.images[:, :-1], np.full(attacked.N, 3.0)]) for one in (audited, others))
    given = attacked.target(attacked.people(images, texts), attacked.people(held, others.texts))
    images, texts, held = (np.asarray(rows, float) for rows in (given.inputs.images, given.inputs.texts, given.auxiliary.images))
    texts = texts - texts.mean(axis=0)
    wanted = up_to_each_image(2 * images @ texts.T - np.sort(held @ texts.T, axis=0)[-10:].mean(axis=0))
    found = up_to_each_image(attacked.scores(normalisation.CSLS(10).space(given)))
    np.testing.assert_allclose(found / found.std(), wanted / wanted.std(), atol=1e-3)


def test_settings_that_cannot_be():
    given = attacked.target(attacked.planted(1))
    with pytest.raises(errors.UsageError, match="bank in an attack: expected inductive or transductive, found 'mine'"):
        normalisation.ZNorm("mine").space(given)
    for attack in (normalisation.CSLS(0), normalisation.InvertedSoftmax(0.0)):
        with pytest.raises(errors.UsageError):
            attack.space(given)
    with pytest.raises(errors.UsageError, match="did you mean 'csls'"):
        listing.every(["clss"])


def test_a_bank_smaller_than_k_is_all_neighbours():
    given = example()
    assert normalisation.CSLS(10).space(given).params == {"k": 3}
    assert [one.k for one in normalisation.CSLS(10).variants(given)] == [10, 1, 3]


def test_hubness_counts_candidates_that_nobody_lists():
    lists = np.array([[0, 1, -1], [0, 2, -1], [0, 3, -1], [1, 0, -1]])
    found = hubness.hubness(lists, 8)
    listed = np.array([4, 2, 1, 1, 0, 0, 0, 0])
    assert found == {"n10_skew": pytest.approx(((listed - 1) ** 3).mean() / (listed.var() ** 1.5)), "max_n1": 3, "k": 3}
    assert hubness.hubness(np.arange(5)[:, None], 5) == {"n10_skew": 0.0, "max_n1": 1, "k": 1}
    assert hubness.hubness(np.tile(np.arange(40), (2, 1)), 40)["k"] == 10
    for wrong in (np.zeros((3, 0), int), np.array([[5]])):
        with pytest.raises(errors.DataError, match="top lists in hubness"):
            hubness.hubness(wrong, 5)
