"""Every published layout through the command line: files as published, convert, embed, audit; and mitigated heads back again.

The checkpoints are the goldens: small, with the entry's own geometry replaced by theirs; everything else of the entry is the real one. The
preprocessing is the checkpoint's, whose pictures are small; each entry's own recipe is tested at its real size in `encoders`.
"""

import dataclasses
import json
import pathlib

import against_oracle as against
import numpy as np
import pytest
from own_archive import archive, write

from relink_jax import cli
from relink_jax.encoders import convert, preprocess, published, zoo
from relink_jax.stages import convert as convert_stage
from relink_jax.store import checkpoints, shards

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn", "traced_once")  # the arithmetic of what is compiled here is tested elsewhere

GOLDENS = against.TESTS / "goldens"
ENTRIES = {
    **{"biomedclip": "biomedclip", "biovil": "biovil", "biovil-t": "biovil-t", "chexzero": "chexzero", "gloria": "gloria"},
    **{"clip-hf": "clip-vit-b-32", "clip-msgpack": "clip-vit-b-16", "pubmedclip": "pubmedclip", "siglip": "medsiglip-448", "xrayclip": "xrayclip-vit-b-16"},
    **{"cxr-clip-resnet": "cxr-clip-resnet50", "cxr-clip-swin": "cxr-clip-swin-t", "medclip-resnet": "medclip-resnet50", "medclip-swin": "medclip-swin-t"},
}
FAST = [
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=3",
    "--config.audit.ks=1",
    "--config.embed.batch_size=8",
]


@pytest.fixture
def small(monkeypatch):
    """Returns (directory, entry name) of a family, with the entry's geometry made that of its golden."""

    def get(family):
        directory, name = GOLDENS / family, ENTRIES[family]
        geometry = against.spec_of(directory, family, json.loads((directory / "oracle.json").read_text()))
        changed = {field: getattr(geometry, field) for field in ("image", "text", "dim")}
        monkeypatch.setitem(published.MODELS, name, dataclasses.replace(published.MODELS[name], recipe="", **changed))
        return directory, name

    return get


def rows(root):
    """Rows of a pairs table whose reports differ in their first words, since the small towers read few."""
    return [{**row, "findings": f"{chr(97 + index)} left lung"} for index, row in enumerate(archive(root))]


def relink(*words):
    return cli.main(list(words))


def test_every_golden_is_an_entry_and_every_kind_of_entry_has_a_golden():
    assert set(ENTRIES) == {path.parent.name for path in GOLDENS.glob("*/oracle.json")}
    kinds = {(type(one.image), type(one.text), one.image_head, one.text_head, one.text_rule) for one in published.MODELS.values()}
    assert kinds == {
        (type(one.image), type(one.text), one.image_head, one.text_head, one.text_rule) for one in (published.MODELS[name] for name in ENTRIES.values())
    }


_QUICK = ("biomedclip", "biovil-t")  # other towers, heads and text rules; test_goldens.py embeds with every family, whose roads are slow


@pytest.mark.parametrize("family", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(ENTRIES)])
def test_convert_embed_and_audit(tmp_path, small, family):
    directory, name = small(family)
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("cohort", *write(tmp_path, rows(tmp_path))) == 0
    assert relink("convert", f"--model={name}", f"--source={directory}", workdir) == 0
    assert relink("embed", *FAST, workdir) == 0
    provenance = checkpoints.provenance_of(tmp_path / "w" / "models" / name)
    assert provenance["model"]["exposure"] == json.loads(json.dumps([dataclasses.asdict(one) for one in published.MODELS[name].exposure]))
    for what, side in (("images", "image"), ("texts", "text")):
        features = shards.read(tmp_path / "w" / "features" / name / what)["features"]
        assert features.shape[1:] == getattr(published.MODELS[name], side).features
        assert len({row.tobytes() for row in features}) > 1
    assert relink("audit", *FAST, workdir) == 0
    result = json.loads((tmp_path / "w" / "results" / f"{name}__original__pairs-A-test.json").read_text())
    assert (result["model"]["tier"], result["model"]["name"]) == (published.MODELS[name].tier, name)
    assert relink("report", workdir) == 0


@pytest.mark.parametrize("family", sorted(set(ENTRIES) - {"clip-msgpack"}))
def test_an_export_holds_the_published_tensors_and_converts_to_the_same_model(tmp_path, small, family):
    directory, name = small(family)
    workdir = tmp_path / "w"
    assert relink("convert", f"--model={name}", f"--source={directory}", f"--workdir={workdir}") == 0
    assert relink("convert", "--to=hf", f"--model={name}", "--arm=original", f"--workdir={workdir}") == 0
    exported = workdir / "export" / name / "original"
    first, again = (convert.convert(zoo.of_source(name, one)) for one in (directory, exported))
    for before, after in ((first.params, again.params), (first.heads, again.heads)):
        before, after = checkpoints.flatten(before), checkpoints.flatten(after)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[path], after[path]) for path in before)
    assert first.logit_scale == again.logit_scale


@pytest.mark.slow  # test_export.py exports trained heads of every form
def test_mitigated_heads_are_exported_in_the_place_of_the_original(tmp_path, small):
    directory, name = small("clip-hf")
    workdir = f"--workdir={tmp_path / 'w'}"
    fast = [*FAST, "--config.heads.mechanism.iterations=2", "--config.heads.noise_draws=1", "--config.embed.anchors=16"]
    assert relink("cohort", *write(tmp_path, rows(tmp_path))) == 0
    assert relink("convert", f"--model={name}", f"--source={directory}", workdir) == 0
    for stage in ("embed", "heads"):
        assert relink(stage, *fast, workdir) == 0
    assert relink("convert", "--to=hf", f"--model={name}", workdir) == 0
    exported = convert.convert(zoo.of_source(name, tmp_path / "w" / "export" / name / "dp"))
    original = convert.convert(zoo.of_source(name, directory))
    trained = checkpoints.flatten(convert_stage.heads.load(tmp_path / "w" / "heads" / name / "dp")[0])
    for path, array in checkpoints.flatten(exported.heads).items():
        np.testing.assert_array_equal(array, trained[path])
        assert not np.array_equal(array, checkpoints.flatten(original.heads)[path])
    for path, array in checkpoints.flatten(exported.params).items():
        np.testing.assert_array_equal(array, checkpoints.flatten(original.params)[path])
    card = json.loads((tmp_path / "w" / "export" / name / "dp" / "export.json").read_text())
    assert card["dp"]["epsilon"] <= 0.34 + 1e-6


@pytest.mark.parametrize("name", [name for name, entry in published.MODELS.items() if entry.recipe])
def test_every_recipe_makes_pictures_of_the_size_its_tower_takes(name):
    spec = zoo.published_spec(name, pathlib.Path("nowhere"))
    picture = np.random.default_rng(0).random((301, 257)).astype(np.float32)
    pixels = preprocess.recipe_for(spec).pixels(picture)
    assert pixels.shape == (spec.image.image_size, spec.image.image_size, 3)
    assert np.isfinite(pixels).all()
