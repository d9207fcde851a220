"""The packaged models are all there, unchanged, convertible and on the right rung."""

import json

import numpy as np
import pytest

from relink_jax import config, errors
from relink_jax.encoders import convert, layouts, zoo
from relink_jax.store import digests

NAMES = zoo.list_vlms()


def test_names_are_those_of_the_config_in_rising_order():
    assert NAMES == config.MODELS
    assert [zoo.get_vlm(name).specialisation for name in NAMES] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_each_model_converts_and_is_small(name):
    spec = zoo.get_vlm(name)
    converted = convert.convert(spec)
    assert (spec.directory / convert.WEIGHTS).stat().st_size <= 3 * 2**20
    assert spec.sha256 == (digests.file_digest(spec.directory / convert.WEIGHTS),)
    assert converted.provenance["layout"] == layouts.HF_CLIP.name
    assert converted.provenance["parameters"] == 927_233
    assert converted.heads["image"]["kernel"].shape == (spec.image.stack.width, spec.dim)
    assert spec.licence.startswith("Apache-2.0")


def test_the_models_differ_in_weights_but_share_tokenizer_and_preprocessing():
    specs = [zoo.get_vlm(name) for name in NAMES]
    assert len({spec.sha256 for spec in specs}) == len(NAMES)
    for file in ("tokenizer.json", "vocab.json", "config.json", "preprocessor_config.json"):
        assert len({digests.file_digest(spec.directory / file) for spec in specs}) == 1


def test_training_logs_show_recall_rising_along_the_ladder():
    recalls = []
    for name in NAMES:
        log = json.loads((zoo.get_vlm(name).directory / "training.json").read_text())
        recalls.append(max(entry["recall_at_1"]["100"] for entry in log["rungs"][name]))
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.02
    assert recalls[-1] > 2 * recalls[1]


def test_an_untrained_model_is_only_initialised():
    converted = convert.convert(zoo.get_vlm("phantom-0-untrained"))
    assert np.isclose(converted.logit_scale, np.log(1 / 0.07), atol=1e-3)
    assert not converted.params["image"]["encoder"]["block_0"]["fc1"]["bias"].any()


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(errors.UsageError, match="did you mean 'phantom-2-reports'"):
        zoo.get_vlm("phantom-2-report")


def test_an_unknown_name_says_how_a_checkpoint_directory_is_given():
    with pytest.raises(errors.UsageError, match=r"or --source=DIR with --model=NAME for a checkpoint directory, found another name"):
        zoo.get_vlm("/models/clip")


def test_a_directory_without_config_is_refused(tmp_path):
    with pytest.raises(errors.DataError, match="file missing in model directory"):
        zoo.from_directory(tmp_path)
