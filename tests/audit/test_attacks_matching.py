"""Sinkhorn and exact assignment, study means and several models: worked examples, and small matrices by brute force."""

import itertools
import math

import attacked
import numpy as np
import pytest
from scipy import optimize

from relink_jax import errors
from relink_jax.audit.attacks import assignment, base, cosine, fusion, sinkhorn
from relink_jax.audit.attacks.bank import scored

O11 = np.array([[5, 2, 2], [6, 5, 2], [3, 2, 3]], float)

pytestmark = pytest.mark.usefixtures("quick_module")


def of_matrix(scores, study_text=None):
    """Returns a target with these scores of images by distinct reports; a report that is named again is another study's."""
    scores = np.asarray(scores, float)
    text = np.arange(scores.shape[1]) if study_text is None else np.asarray(study_text)
    return attacked.target(attacked.people(scores, np.eye(scores.shape[1])[text], np.arange(len(scores))))


def balanced(kernel, share, rounds=2000):
    """Returns the kernel [Q, U] scaled until every row has one unit and column j has share[j] of all units."""
    for _ in range(rounds):
        kernel = kernel / kernel.sum(axis=1, keepdims=True)
        kernel = kernel * (share * len(kernel) / share.sum() / kernel.sum(axis=0))
    return kernel


def plan(space, unit, studies):
    """Returns units [Q, U] that the space's scores imply at temperature `unit`, rows of one unit; a report weighs as often as it is a study's."""
    weight = studies * np.exp((attacked.scores(space) - attacked.scores(space).max(axis=1, keepdims=True)) / unit)
    return weight / weight.sum(axis=1, keepdims=True)


def test_sinkhorn_of_the_worked_example_has_its_limit():
    """[[4, 1], [1, 1]], or twice as much, is balanced at [[2/3, 1/3], [1/3, 2/3]]."""
    given = of_matrix(np.log([[8, 2], [2, 2]]))
    natural = 1 / scored(given, base.TRANSDUCTIVE).unit
    space = sinkhorn.Sinkhorn(natural, 60, 1e-6).space(given)
    np.testing.assert_allclose(plan(space, 1, np.ones(2)), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], atol=2e-6)
    assert space.params["unit_error"] <= 1e-6
    short = sinkhorn.Sinkhorn(natural, 1, 0.0).space(given)
    assert short.params == {"temperature": natural, "iterations": 1, "unit_error": pytest.approx(np.abs(np.array([0.8 + 0.5, 0.2 + 0.5]) - 1).mean(), abs=1e-5)}
    assert (short.passes, space.passes) == (3.0, 1 + 2 * space.params["iterations"])


@pytest.mark.parametrize("seed", range(3))
def test_sinkhorn_agrees_with_brute_force_and_shares_by_studies(seed):
    generator = np.random.default_rng(seed)
    text = np.array([0, 1, 2, 1, 1, 0, 3])
    given = of_matrix(generator.standard_normal((7, 4)), text)
    unit = 0.7 * scored(given, base.TRANSDUCTIVE).unit
    space = sinkhorn.Sinkhorn(0.7, 200, 1e-6).space(given)
    studies = np.bincount(text)
    wanted = balanced(np.exp(given.inputs.images.astype(float) @ given.inputs.texts.T / unit), studies)
    np.testing.assert_allclose(plan(space, unit, studies), wanted, atol=1e-5)


def test_sinkhorn_stops_when_units_are_right():
    given = attacked.target(attacked.planted(1))
    hot, cold = (sinkhorn.Sinkhorn(temperature).space(given).params for temperature in (2.0, 0.1))
    assert hot["iterations"] < cold["iterations"] == 10
    assert hot["unit_error"] <= 1e-3 < cold["unit_error"]
    with pytest.raises(errors.UsageError, match="iterations in Sinkhorn: expected 1 or more, found 0"):
        sinkhorn.Sinkhorn(iterations=0).space(given)


@pytest.mark.parametrize("attack", [sinkhorn.Sinkhorn(), assignment.Assignment()])
def test_matching_undoes_hubs_and_gains_from_it(attack):
    free, hubbed = (attacked.planted(5, hub=hub, noise=0.25) for hub in (0, 0.6))
    plain, spoilt = (attacked.recall(cosine.Cosine().space(attacked.target(one)), one).mean() for one in (free, hubbed))
    found = attacked.recall(attack.space(attacked.target(hubbed)), hubbed).mean()
    assert spoilt < 0.2 < plain < found


def test_assignment_of_the_worked_example():
    """The best of all pairings is the identity with a total of 13, the next best has 11."""
    totals = sorted((sum(O11[row, column] for row, column in enumerate(order)), order) for order in itertools.permutations(range(3)))
    assert totals[-1] == (13, (0, 1, 2))
    assert totals[-2][0] == 11
    given = of_matrix(O11)
    space = assignment.Assignment().space(given)
    assert attacked.scores(space).argmax(axis=1).tolist() == [0, 1, 2]
    assert attacked.counted(space, given.inputs).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (5, 9), (1, 4), (40, 55)])
def test_prices_are_optimal_and_no_second_choice_ties(rows, columns):
    """Scores less prices rank every row's own column strictly first; totals prove optimality: rows' best values and prices add up to the total."""
    scores = np.random.default_rng(rows).standard_normal((rows, columns))
    row, column = optimize.linear_sum_assignment(scores, maximize=True)
    price = assignment.prices(scores)
    left = scores - price
    rivals = left.copy()
    rivals[row, column] = -np.inf
    assert (left[row, column] > rivals.max(axis=1) + 1e-9).all()
    assert left.max(axis=1).sum() + price.sum() == pytest.approx(scores[row, column].sum())
    if columns > rows:
        assert price.min() >= 0
        assert (price[np.setdiff1d(np.arange(columns), column)] == 0).all()


def test_prices_follow_the_columns():
    generator = np.random.default_rng(4)
    scores, added, order = generator.standard_normal((8, 8)), generator.standard_normal(8), generator.permutation(8)
    price = assignment.prices(scores)
    np.testing.assert_allclose(assignment.prices(scores + added), price + added - added.mean(), atol=1e-12)
    np.testing.assert_allclose(assignment.prices(scores[:, order]), price[order], atol=1e-12)
    np.testing.assert_allclose(assignment.prices(np.zeros((3, 3))), 0)


def test_duplicates_of_a_report_cost_the_same():
    given = of_matrix(np.random.default_rng(0).standard_normal((6, 4)), [0, 1, 2, 1, 1, 3])
    price = assignment.prices((given.inputs.images.astype(float) @ given.inputs.texts.T.astype(float))[:, given.inputs.study_text])
    assert np.ptp(price[given.inputs.study_text == 1]) < 1e-12
    assert len(assignment.Assignment().space(given).texts) == 4


def test_assignment_is_not_tried_beyond_its_size():
    given = attacked.target(attacked.planted(1, n=20))
    small = assignment.Assignment(most=19)
    assert small.why_not(given) == "exact assignment is tried up to 19 studies, and there are 20"
    assert assignment.Assignment(most=20).why_not(given) is None
    with pytest.raises(errors.UsageError, match="studies in exact assignment: expected at most 19, found 20"):
        small.space(given)


def test_study_means_speak_for_each_image():
    images = np.array([[1.0, 0], [0, 2], [3, 4], [0, 5]])
    given = attacked.target(attacked.people(images, np.eye(2)[[0, 1, 0]], [2, 1, 2, 1], [0, 1, 2]))
    found = fusion.StudyMean().space(given)
    mean = np.array([1.6, 0.8]) / math.hypot(1.6, 0.8)
    np.testing.assert_allclose(found.images, [mean, [0, 1], mean, [0, 1]], rtol=1e-6)  # the first report has no image
    assert found.texts is given.inputs.texts


def test_study_means_find_more_where_studies_have_more_images():
    many = attacked.planted(3, noise=0.4, n=100, each=3)
    given = attacked.target(many)
    plain, fused = (attacked.recall(attack.space(given), many).mean() for attack in (cosine.Cosine(), fusion.StudyMean()))
    assert fused > plain + 0.1


def test_study_means_read_no_truth():
    """Numbering the studies otherwise, so that images point at other reports, changes nothing."""
    many = attacked.planted(3, n=50, each=2)
    wrong = attacked.people(many.images, many.texts, np.roll(np.arange(50), 7)[many.image_study])
    for attack in (fusion.StudyMean(), assignment.Assignment()):
        np.testing.assert_allclose(*(attacked.scores(attack.space(attacked.target(one))) for one in (many, wrong)), atol=1e-6)


def test_several_models_score_the_mean_of_their_cosines():
    first, second = attacked.planted(1, n=40), attacked.planted(2, n=40, dim=5)
    given = attacked.target(first, others=(second,))
    cosines = [fusion.unit(one.images).astype(float) @ fusion.unit(one.texts).T for one in (first, second)]
    space = fusion.ModelFusion().space(given)
    np.testing.assert_allclose(attacked.scores(space), np.mean(cosines, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(space.images, axis=1), 1, atol=1e-6)
    assert space.params == {"models": 2}


def test_reports_that_only_one_model_tells_apart():
    """Distinct reports are those of the first model; the second one's are found by study, whatever their numbers are there."""
    text = [0, 1, 0, 2]
    images = np.eye(4)
    one, other = attacked.people(images[:, :3] + 0.1, np.eye(3)[text]), attacked.people(images, np.eye(4)[[3, 1, 2, 0]])
    space = fusion.ModelFusion().space(attacked.target(one, others=(other,)))
    np.testing.assert_allclose(space.texts[:, 3:] * math.sqrt(2), np.eye(4)[[3, 1, 0]], atol=1e-6)


def test_models_of_other_people_are_refused():
    given = attacked.target(attacked.planted(1, n=40), others=(attacked.planted(2, n=41),))
    with pytest.raises(errors.DataError, match="rows of another model in model fusion: expected the same 40 images and 40 studies"):
        fusion.ModelFusion().space(given)
    assert fusion.ModelFusion().why_not(attacked.target(attacked.planted(1, n=40))) == "no other model embedded the same people"
