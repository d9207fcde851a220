"""Token ids: the packaged tokenizer, its training, and what happens to long, empty and odd texts."""

import json

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.encoders import tokenize, zoo

TEXTS = ["The heart is enlarged. No pleural effusion.", "", "LEFT pleural  effusion\nwith ___ marks, 12 mm, é 胸", "effusion " * 300]


@pytest.fixture(scope="module")
def packaged():
    spec = zoo.get_vlm("phantom-3-specialist")
    return tokenize.Tokenizer(spec.directory, spec.text.positions), spec


def test_ids_are_framed_padded_and_within_the_vocabulary(packaged):
    tokenizer, spec = packaged
    ids = tokenizer(TEXTS)
    start, end = spec.text.vocab_size - 2, spec.text.vocab_size - 1
    assert ids.dtype == np.int32
    assert ids.shape == (4, spec.text.positions)
    assert (ids[:, 0] == start).all()
    assert (ids[1, 1:] == end).all()
    assert ids.max() == end == tokenizer.vocab_size - 1
    assert spec.text.eos_token_id == end


def test_a_long_text_keeps_its_end_token(packaged):
    tokenizer, spec = packaged
    row = tokenizer(TEXTS)[3]
    assert row[-1] == spec.text.eos_token_id
    assert (row[1:-1] == row[1]).all()


def test_case_and_whitespace_do_not_matter_but_words_do(packaged):
    tokenizer, _ = packaged
    first, same, other = tokenizer(["Small Left effusion.", "small  left\n effusion.", "small right effusion."])
    np.testing.assert_array_equal(first, same)
    assert (first != other).sum() == 1


def test_ids_equal_those_of_the_reference_loader(packaged):
    from transformers import AutoTokenizer

    tokenizer, spec = packaged
    reference = AutoTokenizer.from_pretrained(str(spec.directory), local_files_only=True)
    expected = reference(TEXTS, padding="max_length", truncation=True, max_length=spec.text.positions)["input_ids"]
    np.testing.assert_array_equal(tokenizer(TEXTS), expected)


def test_vocabulary_and_merges_alone_give_the_same_ids(packaged, tmp_path):
    tokenizer, spec = packaged
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((spec.directory / name).read_bytes())
    np.testing.assert_array_equal(tokenize.Tokenizer(tmp_path, spec.text.positions)(TEXTS), tokenizer(TEXTS))


def test_training_is_deterministic_and_in_clips_form(tmp_path):
    texts = ["The heart is enlarged.", "Small left pleural effusion.", "No acute disease."] * 4
    for name in ("one", "two"):
        tokenize.train(texts, tmp_path / name, merges=40, positions=16)
    vocabulary = json.loads((tmp_path / "one" / "vocab.json").read_text())
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= 512 + 40 + 2
    assert (vocabulary[tokenize.START], vocabulary[tokenize.END]) == (len(vocabulary) - 2, len(vocabulary) - 1)
    ids = tokenize.Tokenizer(tmp_path / "one", 16)(["heart", "zebra"])
    assert (ids[0] != len(vocabulary) - 1).sum() < (ids[1] != len(vocabulary) - 1).sum()


def test_a_tokenizer_that_cannot_encode_is_refused_at_once(packaged, tmp_path, monkeypatch):
    tokenizer, spec = packaged
    monkeypatch.setattr(tokenize.Tokenizer, "__call__", lambda *_: np.zeros((1, spec.text.positions), np.int32))
    with pytest.raises(errors.DataError, match=r"tokenizer unreadable .* expected a CLIP tokenizer, found ValueError"):
        tokenize.Tokenizer(spec.directory, spec.text.positions)
    assert tokenizer.highest_id == tokenizer.end_id == spec.text.vocab_size - 1


def test_no_texts_give_no_rows(packaged):
    assert packaged[0]([]).shape == (0, packaged[1].text.positions)


def test_missing_or_broken_files_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match="tokenizer missing"):
        tokenize.Tokenizer(tmp_path, 8)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).mkdir()
    with pytest.raises(errors.DataError, match="tokenizer missing"):
        tokenize.Tokenizer(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(errors.DataError, match="tokenizer unreadable"):
        tokenize.Tokenizer(tmp_path, 8)
