"""Pinned digests: one for each weight file, in any order, compared before a file is opened."""

import dataclasses
import functools
import hashlib
import json

import numpy as np
import published
import pytest
import torch_zip
from safetensors import numpy as safetensors_numpy

from relink_jax import cli, errors
from relink_jax.encoders import convert, formats, specs, zoo
from relink_jax.store import checkpoints

BIOVIL = published.CASES["biovil"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)
    monkeypatch.setattr(convert, "target_shapes", functools.cache(convert.target_shapes))
    monkeypatch.setattr(zoo, "of_source", lambda name, directory, *_, **__: BIOVIL.spec(directory, name))


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that were opened as weights."""
    seen, real = [], formats.opened
    monkeypatch.setattr(formats, "opened", lambda path, trust_pickle=False: seen.append(path.name) or real(path, trust_pickle))
    return seen


@pytest.fixture
def source(tmp_path):
    """A model of two files, and their digests by name."""
    directory = tmp_path / "mine"
    directory.mkdir()
    paths = [torch_zip.write(directory / f"{file}.pt", state) for file, state in BIOVIL.states().items()]
    return directory, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def refused(spec, *arguments):
    with pytest.raises(errors.DataError) as caught:
        convert.convert(spec, *arguments)
    return str(caught.value)


def test_every_file_needs_its_digest_in_any_order(source, opened):
    directory, found = source
    spec, (image, text) = BIOVIL.spec(directory), found.values()
    assert convert.convert(dataclasses.replace(spec, sha256=(text, image))).provenance["layout"] == "biovil-image+cxr-bert"
    opened.clear()
    pinned = functools.partial(dataclasses.replace, spec)
    assert refused(pinned(sha256=(image,))) == (
        f"weights changed in tiny/pytorch_model.pt: expected its SHA-256 among the 1 given, one for each weight file, found {text[:12]}"
    )
    assert refused(pinned(sha256=(image, "0" * 64))) == f"weights changed in tiny/pytorch_model.pt: expected SHA-256 {'0' * 12}, found {text[:12]}"
    assert refused(pinned(sha256=(image, image))) == f"weights changed in tiny/pytorch_model.pt: expected SHA-256 {image[:12]}, found {text[:12]}"
    message = f"weights missing in tiny: expected a weight file of SHA-256 {'1' * 12}, found only files of the other digests"
    assert refused(pinned(sha256=(image, "1" * 64, text))) == message
    (directory / "training_args.bin").write_bytes(b"not pinned, not opened")
    assert "weights changed in tiny/training_args.bin" in refused(pinned(sha256=(image, text)))
    assert opened == []


def test_shards_are_pinned_one_by_one(tmp_path, opened):
    case, (state,) = published.CASES["hf-clip"], published.CASES["hf-clip"].states().values()
    named = {key: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, key in enumerate(state)}
    for name in set(named.values()):
        safetensors_numpy.save_file({key: np.array(state[key], order="C") for key in state if named[key] == name}, str(tmp_path / name))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    first, second = (hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in sorted(set(named.values())))
    spec = case.spec(tmp_path)
    assert convert.convert(dataclasses.replace(spec, sha256=(second, first))).provenance["files"][0]["parts"] == dict(
        zip(sorted(set(named.values())), (first, second), strict=True)
    )
    opened.clear()
    assert f"tiny/model-00002-of-00002.safetensors: expected SHA-256 {'a' * 12}" in refused(dataclasses.replace(spec, sha256=("a" * 64, first)))
    assert opened == []


def test_digests_survive_json_and_nothing_else_passes_for_them(tmp_path):
    spec = dataclasses.replace(BIOVIL.spec(tmp_path), sha256=("a" * 64, "b" * 64))
    value = json.loads(json.dumps(specs.to_json(spec)))
    assert value["sha256"] == ["a" * 64, "b" * 64]
    assert specs.from_json(value, tmp_path) == spec
    for wrong in (None, "a" * 64, [1], {}):
        with pytest.raises(errors.StoreError, match="spec damaged"):
            specs.from_json({**value, "sha256": wrong}, tmp_path)


def test_the_command_line_prints_digests_and_pins_them(tmp_path, source, opened, capsys):
    directory, found = source
    words = ["convert", f"--source={directory}"]
    assert cli.main([*words, f"--workdir={tmp_path / 'first'}"]) == 0
    told = capsys.readouterr().out
    assert all(f"    {digest}  {name}" in told.splitlines() for name, digest in found.items())
    pins = ",".join(reversed(found.values()))
    assert cli.main([*words, f"--sha256={pins.upper()}", f"--workdir={tmp_path / 'again'}"]) == 0
    provenance = checkpoints.provenance_of(tmp_path / "again" / "models" / "mine")
    assert sorted(provenance["model"]["sha256"]) == sorted(found.values())
    opened.clear()
    capsys.readouterr()
    wrong = f"{next(iter(found.values()))},{'0' * 64}"
    for workdir, pinned in (("fresh", wrong), ("again", wrong), ("fresh", next(iter(found.values())))):
        assert cli.main([*words, f"--sha256={pinned}", f"--workdir={tmp_path / workdir}"]) == 65
        told = capsys.readouterr().err
        assert "weights changed in mine/pytorch_model.pt" in told
        assert told.count("\n") == 1
    assert opened == []
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("pins", ["", "abc", "g" * 64, f"{'0' * 64},", "0" * 63])
def test_a_pin_that_is_none_is_a_wrong_command(tmp_path, source, capsys, pins):
    assert cli.main(["convert", f"--source={source[0]}", f"--sha256={pins}", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "digest in flag --sha256: expected --source beside it, and 64 hexadecimal digits for each weight file" in capsys.readouterr().err
    assert cli.main(["convert", f"--sha256={'0' * 64}", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "found no --source" in capsys.readouterr().err


def test_members_of_an_ensemble_are_pinned_together_and_keep_their_own(tmp_path, monkeypatch):
    case, directory = published.CASES["openai"], tmp_path / "ten"
    directory.mkdir()
    monkeypatch.setattr(zoo, "of_source", lambda name, directory, *_, **__: case.spec(directory, name))
    paths = [torch_zip.write(directory / f"best_{seed}.pt", case.states(seed)["model"]) for seed in range(2)]
    pins = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    words = ["convert", "--ensemble", f"--source={directory}", f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*words, f"--sha256={pins[0]}"]) == 65
    assert cli.main([*words, f"--sha256={pins[1]},{pins[0]}"]) == 0
    assert [checkpoints.provenance_of(tmp_path / "w" / "models" / f"ten-{number}")["model"]["sha256"] for number in (1, 2)] == [[pin] for pin in pins]
