"""What a model's training has seen of each part of a published release."""

import numpy as np
import pytest

from relink_jax.encoders import exposure, published


@pytest.mark.parametrize(
    ("model", "origin", "expected"),
    [
        ("cxr-clip-resnet50", "mimic-cxr/train", "seen"),
        ("cxr-clip-resnet50", "mimic-cxr/test", "unseen"),
        ("cxr-clip-resnet50", "chexpert-plus/train", "unseen"),
        ("chexzero", "mimic-cxr/test", "seen"),
        ("gloria", "chexpert-plus/train", "seen"),
        ("gloria", "chexpert-plus/valid", "unseen"),
        ("gloria", "mimic-cxr/train", "unseen"),
        ("medclip-swin-t", "mimic-cxr/train", "seen"),
        ("medclip-swin-t", "mimic-cxr/test", "unknown"),
        ("medsiglip-448", "mimic-cxr/train", "unknown"),
        ("clip-vit-b-32", "mimic-cxr/train", "unknown"),
        ("biomedclip", "mimic-cxr/train", "unseen"),
        ("biomedclip", "openi", "unknown"),
        ("biomedclip", "", "unknown"),
    ],
)
def test_published_models(model, origin, expected):
    assert exposure.of_origin(published.MODELS[model].exposure, origin) == expected


def test_every_declared_dataset_is_one_that_an_archive_can_have():
    names = {one.dataset for entry in published.MODELS.values() for one in entry.exposure}
    assert names <= set(exposure._DATASETS.values())


def test_the_tables_own_word_decides_where_it_has_one():
    recorded = published.MODELS["chexzero"].exposure
    origin = np.array(["mimic-cxr/train", "mimic-cxr/train", ""], dtype=object)
    declared = np.array(["unseen", "unknown", "seen"], dtype=object)
    assert exposure.of_studies(recorded, origin, declared).tolist() == ["unseen", "seen", "seen"]
