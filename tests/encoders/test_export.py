"""`relink convert --to=hf`: towers and (mitigated) heads go back into the published layout, and come again bit for bit."""

import dataclasses
import functools
import json

import jax
import numpy as np
import published
import pytest
import tiny_clip
import torch_zip
from flax import serialization
from safetensors import numpy as safetensors_numpy

from relink_jax import cli, heads
from relink_jax import config as config_lib
from relink_jax.encoders import convert as convert_lib
from relink_jax.encoders import zoo
from relink_jax.stages import context
from relink_jax.stages import convert as stage
from relink_jax.store import checkpoints, digests

NAMES = ["openai", "hf-siglip", "biomedclip", "biovil-t", "medclip-swin", "gloria"]


@pytest.fixture
def tiny_models(monkeypatch):
    """The published cases as the models that sources are taken for; their tokenizers are not the matter here."""
    monkeypatch.setattr(convert_lib, "check_inputs", lambda spec: None)
    monkeypatch.setattr(convert_lib, "target_shapes", functools.cache(convert_lib.target_shapes))
    monkeypatch.setattr(zoo, "of_source", lambda name, directory, *_, **__: published.CASES[name].spec(directory, name))


def brought(workdir, source, name, **options):
    config = config_lib.RunConfig()
    config.source = str(source)
    stage.run(config, str(workdir), model=name, **options)
    params, provenance = checkpoints.restore(workdir / "models" / name)
    loaded, _ = heads.load(workdir / "heads" / name / "original")
    return config, params, loaded, provenance


def mitigated(like):
    """Heads of the same form with other numbers."""
    draw = np.random.default_rng(5)
    return jax.tree.map(lambda array: (array + draw.standard_normal(array.shape)).astype(np.float32), like)


def same(one, other):
    return checkpoints.tree_digest(one) == checkpoints.tree_digest(other)


def random_arm(workdir, name, changed):
    """Stores `changed` as the model's random heads, the one arm that has settings but no ledger."""
    settings = {"seed": 5}
    heads.save(workdir / "heads" / name / "random", changed, {"arm": "random", "settings": settings, "settings_sha256": digests.value_digest(settings)})


@pytest.mark.parametrize("name", NAMES)
def test_an_export_converts_again_to_the_same_bits(tmp_path, tiny_models, name):
    source = tmp_path / "source"
    source.mkdir()
    (source / "vocab.txt").write_text("[PAD]\n")
    states = published.CASES[name].states()
    for file, state in states.items():
        torch_zip.write(source / f"{file}.bin", state)
    config, params, original, provenance = brought(tmp_path / "w", source, name)
    changed = mitigated(original)
    random_arm(tmp_path / "w", name, changed)
    entry = stage.run(config, str(tmp_path / "w"), to="hf", arm="random")[name]
    directory = tmp_path / "w" / "export" / name / "random"
    assert entry["directory"] == str(directory)
    assert (directory / "vocab.txt").read_text() == "[PAD]\n"
    written = {path.name: safetensors_numpy.load_file(str(path)) for path in directory.glob("*.safetensors")}
    assert written.keys() == {file.replace("pytorch_model", "model") + ".safetensors" for file in states}
    for file, state in states.items():
        again = written[file.replace("pytorch_model", "model") + ".safetensors"]
        assert {key: (array.shape, array.dtype) for key, array in again.items()} == {key: (array.shape, array.dtype) for key, array in state.items()}
    _, params_again, heads_again, provenance_again = brought(tmp_path / "again", directory, name)
    assert same(params_again, params)
    assert same(heads_again, changed)
    assert not same(heads_again, original)
    assert (provenance_again["logit_scale"], provenance_again["logit_bias"]) == (provenance["logit_scale"], provenance["logit_bias"])
    recorded = json.loads((directory / "export.json").read_text())
    assert recorded["files"] == {path.name: digests.file_digest(path) for path in directory.glob("*.safetensors")}
    assert recorded["heads_sha256"] == json.loads((tmp_path / "w" / "heads" / name / "random" / "card.json").read_text())["heads_sha256"]


def test_the_original_heads_give_the_source_back_key_for_key(tmp_path, tiny_models):
    source = tmp_path / "source"
    source.mkdir()
    states = published.CASES["biovil"].states()
    for file, state in states.items():
        torch_zip.write(source / f"{file}.pt", state)
    config, *_ = brought(tmp_path / "w", source, "biovil")
    stage.run(config, str(tmp_path / "w"), to="hf", arm="original")
    for file, state in states.items():
        again = safetensors_numpy.load_file(str(tmp_path / "w/export/biovil/original" / f"{file.replace('pytorch_model', 'model')}.safetensors"))
        assert again.keys() == state.keys()
        for key, array in state.items():
            np.testing.assert_array_equal(again[key], array, err_msg=key)


def test_a_flax_checkpoint_is_exported_for_torch(tmp_path, tiny_models):
    source = tmp_path / "source"
    source.mkdir()
    state = {key: array for key, array in published.CASES["hf-clip"].states()["model"].items() if not key.endswith("position_ids")}
    (source / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(checkpoints.unflatten(published.flax_names(state))))
    config, *_ = brought(tmp_path / "w", source, "hf-clip")
    exported = stage.run(config, str(tmp_path / "w"), to="hf", arm="original")["hf-clip"]
    assert (exported["layout"], list(exported["files"])) == ("hf-clip", ["model.safetensors"])
    again = safetensors_numpy.load_file(str(tmp_path / "w/export/hf-clip/original/model.safetensors"))
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)


def test_damaged_left_out_tensors_are_noticed(tmp_path, tiny_models):
    source = tmp_path / "source"
    source.mkdir()
    torch_zip.write(source / "m.ckpt", published.CASES["gloria"].states()["model"])
    config, *_ = brought(tmp_path / "w", source, "gloria")
    kept = tmp_path / "w" / "models" / "gloria" / "left_out_0.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(stage.errors.StoreError, match=r"file corrupted in models/gloria/left_out_0.safetensors"):
        stage.run(config, str(tmp_path / "w"), to="hf", arm="original")


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path, tiny_models):
    source = tmp_path / "source"
    source.mkdir()
    torch_zip.write(source / "one.pt", published.CASES["openai"].states(0)["model"])
    brought(tmp_path / "w", source, "openai")
    brought(tmp_path / "w", source, "openai")
    torch_zip.write(source / "one.pt", published.CASES["openai"].states(1)["model"])
    with pytest.raises(
        stage.errors.StoreError,
        match=r"other checkpoint in models/openai: expected source_sha256 [0-9a-f]{12} of one.pt, found [0-9a-f]{12}; use a fresh workdir",
    ):
        brought(tmp_path / "w", source, "openai")
    with pytest.raises(stage.errors.StoreError, match=r"other checkpoint in models/openai"):
        brought(tmp_path / "w", source / "one.pt", "openai")


def test_one_of_several_members_is_named_by_its_file(tmp_path, tiny_models, monkeypatch):
    """CheXzero's ensemble: one directory, ten files of one layout."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(2):
        torch_zip.write(source / f"best_{seed}_0.86.pt", published.CASES["openai"].states(seed)["model"])
    monkeypatch.setattr(stage.published, "MODELS", {**stage.published.MODELS, "openai": None})
    with pytest.raises(stage.errors.DataError, match=r"expected one file \(--source=FILE names one\), found best_0_0.86.pt and best_1_0.86.pt"):
        brought(tmp_path / "w", source, "openai")
    for seed in range(2):
        config = config_lib.RunConfig()
        config.source = str(source / f"best_{seed}_0.86.pt")
        (name,) = stage.run(config, str(tmp_path / str(seed)), entry="openai")
        assert name == f"best_{seed}_0.86"
        assert checkpoints.restore(tmp_path / str(seed) / "models" / name)[1]["model"]["name"] == name


def test_the_command_line_exports_a_checkpoint_of_the_users(tmp_path, capsys):
    source, workdir = tiny_clip.write(tmp_path / "my_clip"), tmp_path / "w"
    assert cli.main(["convert", f"--source={source}", f"--workdir={workdir}"]) == 0
    assert cli.main(["convert", "--to=hf", "--arm=original", f"--workdir={workdir}"]) == 0
    assert "exported, float32:\n  my_clip, heads original, layout hf-clip: model.safetensors" in capsys.readouterr().out
    directory = workdir / "export" / "my_clip" / "original"
    assert digests.arrays_digest(tiny_clip.load(directory)) == digests.arrays_digest(tiny_clip.load(source))
    assert cli.main(["convert", f"--source={directory}", "--model=again", f"--workdir={tmp_path / 'again'}"]) == 0
    for words, message in (
        (["--to=onnx"], "export format in flag --to: expected hf, found 'onnx'"),
        (["--to=hf"], "dp heads of 'my_clip' missing"),
        (["--to=hf", "--model=other"], "unknown model 'other'"),
        (["--arm=dp"], "flag --arm in 'relink convert': expected --to=hf beside it"),
        (["--entry=gloria"], "published model in flag --entry: expected --source"),
        (["--entry=glora", f"--source={source}"], "did you mean 'gloria'?"),
        ([f"--source={tmp_path / 'gone'}"], "source missing in --source 'gone'"),
    ):
        assert cli.main(["convert", *words, f"--workdir={workdir}"]) != 0
        assert message in capsys.readouterr().err


def test_heads_of_another_form_do_not_fit_the_layout(tmp_path, monkeypatch):
    source = tiny_clip.write(tmp_path / "my_clip")
    config, _, original, _ = brought(tmp_path / "w", source, "my_clip")
    affine = {side: {**head, "bias": np.zeros(tiny_clip.DIM, np.float32)} for side, head in original.items()}
    monkeypatch.setattr(context, "load_arm", lambda *_: (affine, {"heads_sha256": ""}, None))
    with pytest.raises(stage.errors.DataError, match=r"parameter without a place in layout hf-clip, path 'heads/image/bias'"):
        stage.run(config, str(tmp_path / "w"), to="hf", arm="dp")
    assert not (tmp_path / "w" / "export").exists()


def test_spec_and_provenance_survive_the_workdir(tmp_path):
    source = tiny_clip.write(tmp_path / "my_clip")
    _, _, _, provenance = brought(tmp_path / "w", source, "my_clip")
    with context.opened(config_lib.RunConfig(), str(tmp_path / "w")) as found:
        spec = stage.converted_spec(found, "my_clip", provenance)
    assert dataclasses.replace(spec, directory=source) == dataclasses.replace(zoo.from_directory(source), name="my_clip")
