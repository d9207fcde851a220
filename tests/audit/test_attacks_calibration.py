"""Choosing settings and the best attack on people who are not audited."""

import dataclasses
from typing import ClassVar

import attacked
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit.attacks import base, calibration, cosine, listing, normalisation, splitting
from relink_jax.audit.attacks.assignment import Assignment

pytestmark = pytest.mark.usefixtures("quick_module")


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """Cosine with some share of noise on the images, or what else a test wants; every target it saw is remembered."""

    noise: float = 0.0
    choices: tuple[float, ...] = ()
    wrong: type[Exception] | None = None
    name: str = "spoilt"
    family: str = base.BASELINE
    bank: str | None = None
    pairs: int | None = None
    seen: ClassVar[list[base.Target]] = []

    def space(self, target):
        self.seen.append(target)
        if self.wrong is not None and self.noise == 0:
            raise self.wrong("pairs in spoilt: expected 9, found 3")
        images = np.asarray(target.inputs.images[:])
        return base.Space(images + self.noise * np.random.default_rng(0).standard_normal(images.shape), target.inputs.texts)

    def variants(self, target):
        return [self, *(dataclasses.replace(self, noise=noise) for noise in self.choices)]


@pytest.fixture(autouse=True)
def _forget():
    Spoilt.seen.clear()


def test_the_better_setting_and_the_better_attack_are_chosen():
    given = attacked.target(attacked.planted(1, n=60, hub=0.6), attacked.planted(6, hub=0.6))
    found = calibration.choose([Spoilt(3.0, (0.5, 0.1, 2.0)), *listing.every(("znorm", "inverted_softmax"))], given)
    assert [one.name for one in found.attacks] == ["cosine", "spoilt", "znorm", "znorm", "inverted_softmax", "inverted_softmax"]
    assert found.attacks[1].noise == 0.1
    values = [one["mrr"] for one in found.calibration]
    assert found.selected == int(np.argmax(values)) >= 2
    assert values[found.selected] > values[0] + 0.2
    assert found.calibration[0]["n_queries"] == found.calibration[0]["n_patients"] == attacked.N // 2
    assert found.notes == ()
    given = attacked.target(attacked.planted(2, n=60), given.auxiliary)
    assert calibration.choose(found.attacks[2:], given).calibration[1:] == found.calibration[2:]


def test_nothing_of_the_audited_people_is_read():
    class Closed:
        shape, dtype = (60, attacked.DIM + 1), np.dtype(np.float32)

        def __len__(self):
            return 60

        def __getitem__(self, index):
            raise AssertionError

    audited = dataclasses.replace(attacked.planted(1, n=60), images=Closed(), texts=Closed())
    found = calibration.choose(listing.every(("znorm", "study_mean")), attacked.target(audited))
    assert all(one["mrr"] > 0.2 for one in found.calibration)


def test_cosine_wins_ties():
    given = attacked.target(attacked.planted(1))
    found = calibration.choose([Spoilt(), Spoilt(0.0, (0.0,))], given)
    assert found.selected == 0
    assert len({one["mrr"] for one in found.calibration}) == 1


def test_halves_are_disjoint_deterministic_and_carry_everything_along():
    n = 80
    auxiliary = attacked.planted(4, n=n, each=2)
    row = np.arange(n, dtype=float)
    given = attacked.target(
        attacked.planted(1),
        auxiliary,
        auxiliary_features=base.Features(np.repeat(row, 2)[:, None], row[:, None]),
        auxiliary_attributes={"number": row},
    )
    calibration.choose([Spoilt()], given, seed=3)
    calibration.choose([Spoilt()], given, seed=3)
    calibration.choose([Spoilt()], given, seed=4)
    stage, again, other = Spoilt.seen
    numbers = [stage.attributes["number"], stage.auxiliary_attributes["number"]]
    assert sorted(np.concatenate(numbers)) == row.tolist()
    assert np.array_equal(again.attributes["number"], numbers[0])
    assert not np.array_equal(other.attributes["number"], numbers[0])
    for inputs, features, number in ((stage.inputs, stage.features, numbers[0]), (stage.auxiliary, stage.auxiliary_features, numbers[1])):
        kept = number.astype(int)
        np.testing.assert_array_equal(features.texts[inputs.study_text, 0], number)
        np.testing.assert_array_equal(features.images[:, 0], number[inputs.image_study])
        np.testing.assert_array_equal(inputs.texts[inputs.study_text], auxiliary.texts[auxiliary.study_text[kept]])
        np.testing.assert_array_equal(inputs.images, auxiliary.images[np.isin(auxiliary.image_study, kept)])
        assert inputs.describe()["n_patients"] == len(inputs.study_text) == n // 2


def test_a_part_keeps_labels_keys_duplicates_and_patients():
    whole = attacked.people(np.eye(6), np.eye(6)[[0, 1, 1, 2, 0, 0]], [0, 1, 2, 3, 4, 4], [0, 0, 1, 2, 1, 3])
    whole = dataclasses.replace(whole, study_labels=np.arange(6 * 14).reshape(6, 14).astype(np.int8), study_exposure=np.array(list("abcdef"), object))
    found = splitting.part(whole, np.array([False, True, True, False, True, False]))
    assert (found.studies.tolist(), found.images.tolist(), found.texts.tolist()) == ([1, 2, 4], [1, 2, 4, 5], [0, 1])
    inputs = found.inputs
    assert (inputs.image_study.tolist(), inputs.study_text.tolist(), inputs.study_patient.tolist()) == ([0, 1, 2, 2], [1, 1, 0], [0, 1, 1])
    assert (inputs.study_key.tolist(), inputs.patient_key.tolist(), inputs.image_key.tolist()) == (["1", "2", "4"], ["0", "1"], ["1", "2", "4", "5"])
    assert (inputs.study_labels[:, 0].tolist(), inputs.study_exposure.tolist()) == ([14, 28, 56], ["b", "c", "e"])
    np.testing.assert_array_equal(inputs.images, np.eye(6)[[1, 2, 4, 5]])


def test_the_half_that_is_asked_is_capped(monkeypatch):
    monkeypatch.setattr(calibration, "MOST", 30)
    found = calibration.choose([Spoilt()], attacked.target(attacked.planted(1), attacked.planted(4, n=80, each=2)))
    assert found.calibration[0] == found.calibration[1] == {"mrr": pytest.approx(0.6, abs=0.4), "n_queries": 30, "n_patients": 15}
    assert len(Spoilt.seen[0].auxiliary.study_text) == 40


def test_reciprocal_ranks_leave_out_the_patients_other_studies_and_share_ties():
    """Study 1 is the same patient's; studies 2 and 3 have one text, which ties with the truth of image 1."""
    audited = attacked.people(np.array([[1.0, 3, 2], [1, 2, 2], [0, 0, 1]]), np.eye(3)[[0, 1, 2, 2]], [0, 1, 2], [0, 0, 1, 2])
    space = cosine.Cosine().space(attacked.target(audited))
    np.testing.assert_allclose(calibration.reciprocal_ranks(space, audited), [1 / 3, (1 + 1 / 2 + 1 / 3) / 3, 3 / 4])


def test_attacks_that_cannot_be_tried():
    given = attacked.target(attacked.planted(1, n=60), others=(attacked.planted(2, n=60),))
    refused, late = Spoilt(wrong=errors.DataError), Spoilt(wrong=errors.DataError, choices=(0.1,))
    found = calibration.choose([*listing.every(("model_fusion",)), Assignment(most=59), refused, late], given)
    assert [one.name for one in found.attacks] == ["cosine", "model_fusion", "spoilt", "spoilt"]
    assert [one is None for one in found.calibration] == [False, True, True, False]
    assert found.attacks[3].noise == 0.1
    assert found.notes == (
        "assignment was not tried: exact assignment is tried up to 59 studies, and there are 60",
        "model_fusion was not calibrated: no other model embedded the same people",
        "spoilt was not calibrated: pairs in spoilt: expected 9, found 3",
    )


@pytest.mark.parametrize(("n", "words"), [(3, "expected at least 2 patients in each half"), (12, "calibrated on 6 patients only")])
def test_few_people_are_said(n, words):
    auxiliary = attacked.planted(2, n=n)
    found = calibration.choose([normalisation.ZNorm()], attacked.target(attacked.planted(1, n=20), auxiliary))
    assert len(found.notes) == 1
    assert words in found.notes[0]
    if n == 3:
        assert (found.selected, found.calibration) == (0, (None, None))
