"""Token ids: the packaged tokenizer, its training, and what happens to long, empty and odd texts."""

import json
import sys

import numpy as np
import pytest
from test_cleaning import AWKWARD, REPORTS

from relink_jax import errors
from relink_jax.encoders import cleaning, specs, tokenize, zoo

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


WORDS = [
    "heart",
    "enlarged",
    "effusion",
    "pleural",
    "Heart",
    "no",
    "the",
    "views",
    "appa",
    "ap",
    "pa",
    "mm",
    "cm",
    "lung",
    "degree",
    "##s",
    "##ion",
    "##fus",
    "ef",
]
LETTERS = [chr(code) for code in range(33, 127)] + list("°éöß胸") + ["\u200b"]
VOCABULARY = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
ODD = [*AWKWARD, *REPORTS, "HEART Enlarged", "a" * 150, "x\x00y\ufffdz\u2028w", "Effusions, lungs", "<|endoftext|> stays"]
BERT_RULES = [name for name, rule in tokenize.RULES.items() if rule.kind == "bert"]


@pytest.fixture(scope="module")
def bert_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    (directory / "vocab.txt").write_text("\n".join(dict.fromkeys(VOCABULARY)) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def siglip_files(tmp_path_factory):
    import sentencepiece

    directory = tmp_path_factory.mktemp("siglip")
    draw = np.random.default_rng(3)
    words = ["acute", "pleural", "effusion", "pneumothorax", "heart", "size", "normal", "small", "left", "basal", "app", "a", "p", "views", "25cm", "nodule"]
    sentences = [" ".join(draw.choice(words, draw.integers(4, 14))) for _ in range(200)]
    settings = {"vocab_size": 200, "hard_vocab_limit": False, "model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_prefix=str(directory / "spiece"), **settings)
    return directory


def _bert_references(directory):
    from transformers import BertTokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    return [BertTokenizer(str(directory / "vocab.txt"), do_lower_case=True), BertTokenizerLegacy(str(directory / "vocab.txt"), do_lower_case=True)]


@pytest.mark.parametrize("rule", BERT_RULES)
@pytest.mark.parametrize("number", [0, 1])
def test_word_pieces_equal_both_reference_tokenizers(bert_files, rule, number):
    tokenizer, reference = tokenize.Tokenizer(bert_files, rule=rule), _bert_references(bert_files)[number]
    texts = [cleaning.CLEANING[tokenize.RULES[rule].cleaning](text) for text in ODD]
    expected = reference(texts, padding="max_length", truncation=True, max_length=tokenize.RULES[rule].length)["input_ids"]
    found = tokenizer(ODD)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_lower_case_over_a_cased_vocabulary_and_what_it_would_hide(bert_files):
    ids = tokenize.Tokenizer(bert_files, rule="clinical_bert")(["Heart", "heart"])
    words = list(dict.fromkeys(VOCABULARY))
    assert ids[0, 1] == ids[1, 1] == words.index("heart") != words.index("Heart")


def test_ids_of_awkward_words_are_spelt_out(bert_files):
    tokenizer, words = tokenize.Tokenizer(bert_files, 8, "clinical_bert"), list(dict.fromkeys(VOCABULARY))
    expected = {"AP/PA": ["ap", "/", "pa"], "___": ["_"] * 3, "XXXX": ["x", "##x", "##x", "##x"], "": [], "5 \N{DEGREE SIGN}": ["5", "°"], "ÖS": ["o", "##s"]}
    for text, pieces in expected.items():
        row = ["[CLS]", *pieces, "[SEP]"]
        assert tokenizer([text])[0].tolist() == [words.index(piece) for piece in row] + [0] * (8 - len(row))


@pytest.mark.parametrize("rule", BERT_RULES)
def test_long_texts_keep_their_first_tokens_and_end(bert_files, rule):
    tokenizer, words = tokenize.Tokenizer(bert_files, rule=rule), list(dict.fromkeys(VOCABULARY))
    row = tokenizer(["heart effusion " * 400])[0]
    assert (row[0], row[-1]) == (words.index("[CLS]"), words.index("[SEP]"))
    assert set(row[1:-1].tolist()) == {words.index("heart"), words.index("effusion")}
    assert len(row) == tokenize.RULES[rule].length


def test_words_of_tokenizer_json_give_the_ids_of_vocab_txt(bert_files, tmp_path):
    _bert_references(bert_files)[0].save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    found = tokenize.Tokenizer(tmp_path, rule="clinical_bert")(ODD)
    np.testing.assert_array_equal(found, tokenize.Tokenizer(bert_files, rule="clinical_bert")(ODD))


def test_extents_and_special_ids_of_every_kind(bert_files, siglip_files, packaged):
    bert, siglip = tokenize.Tokenizer(bert_files, rule="medclip"), tokenize.Tokenizer(siglip_files, rule="siglip")
    words = list(dict.fromkeys(VOCABULARY))
    assert (bert.vocab_size, bert.highest_id, bert.end_id, bert.pad_id, bert.positions) == (len(words), len(words) - 1, None, 0, 77)
    assert (siglip.highest_id, siglip.end_id, siglip.pad_id, siglip.positions) == (siglip.vocab_size - 1, None, 1, 64)
    assert 20 < siglip.vocab_size < 200
    assert packaged[0].end_id == packaged[0].pad_id == packaged[0].highest_id


def test_special_tokens_are_refused_by_row_where_the_model_had_none(bert_files):
    tokenizer = tokenize.Tokenizer(bert_files, rule="cxr_bert")
    with pytest.raises(errors.DataError, match=r"special token in text 2: .* found \[SEP\]") as refusal:
        tokenizer(["clear", "private words [SEP]"])
    assert "private" not in str(refusal.value)
    assert list(dict.fromkeys(VOCABULARY)).index("[MASK]") in tokenizer(["seen [MASK]."])


def test_siglip_ids_equal_the_reference(siglip_files):
    from transformers import SiglipTokenizer

    reference = SiglipTokenizer(str(siglip_files / "spiece.model"))
    expected = reference(ODD, padding="max_length", truncation=True, max_length=64)["input_ids"]
    np.testing.assert_array_equal(tokenize.Tokenizer(siglip_files, rule="siglip")(ODD), expected)


def test_siglip_drops_punctuation_appends_its_end_and_keeps_it_when_cut(siglip_files):
    tokenizer = tokenize.Tokenizer(siglip_files, rule="siglip")
    slash, plain, empty, long = tokenizer(["AP/PA.", "appa", "___", "effusion " * 400])
    np.testing.assert_array_equal(slash, plain)
    assert (empty == 1).all()
    assert long[63] == 1
    assert (long[:63] != 1).all()
    assert tokenizer(["no effusion"])[0, tokenizer.used(tokenizer(["no effusion"]))[0] - 1] == 1


def test_siglip_without_its_model_file_or_its_package_is_refused(siglip_files, tmp_path, monkeypatch):
    with pytest.raises(errors.DataError, match=r"expected spiece.model, found none"):
        tokenize.Tokenizer(tmp_path, rule="siglip")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.DataError, match=r"found tokenizer.json alone, which keeps .* 'AP/PA'"):
        tokenize.Tokenizer(tmp_path, rule="siglip")
    (tmp_path / "spiece.model").write_bytes(b"no model")
    with pytest.raises(errors.DataError, match="expected a SentencePiece model"):
        tokenize.Tokenizer(tmp_path, rule="siglip")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(errors.UsageError, match=r"relink_jax\[siglip\]"):
        tokenize.Tokenizer(siglip_files, rule="siglip")


@pytest.mark.parametrize("rule", ["clip", "chexzero"])
def test_clip_ids_of_odd_texts_equal_the_reference(packaged, rule):
    from transformers import CLIPTokenizer

    _, spec = packaged
    reference = CLIPTokenizer.from_pretrained(str(spec.directory), local_files_only=True)
    texts = [cleaning.CLEANING[tokenize.RULES[rule].cleaning](text) for text in ODD]
    expected = reference(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(tokenize.Tokenizer(spec.directory, rule=rule)(ODD), expected)


def test_chexzero_reads_the_impression_and_forces_the_end_at_76(packaged):
    spec = packaged[1]
    tokenizer, plain = tokenize.Tokenizer(spec.directory, 77, "chexzero"), tokenize.Tokenizer(spec.directory, 77)
    whole = tokenizer(["FINDINGS: clear IMPRESSION: No acute disease. RECOMMENDATION: CT", "FINDINGS: clear", "IMPRESSION: " + "effusion " * 400])
    np.testing.assert_array_equal(whole[:2], plain(["No acute disease.", "NO IMPRESSION"]))
    assert whole[2, 76] == tokenizer.end_id
    assert (whole[2, :76] != tokenizer.end_id).all()


def test_shorter_rows_hold_the_same_ids_and_never_cut_a_text(packaged, bert_files):
    clip, bert = packaged[0], tokenize.Tokenizer(bert_files, rule="clinical_bert")
    texts = ["no effusion", "", "The heart is enlarged."]
    for tokenizer in (clip, bert):
        full = tokenizer(texts)
        used = tokenizer.used(full)
        assert used.tolist() == [int((row != tokenizer.pad_id).sum()) + (tokenizer is clip) for row in full]
        short = tokenizer(texts, length=int(used.max()))
        np.testing.assert_array_equal(short, full[:, : used.max()])
        with pytest.raises(errors.UsageError, match=rf"text length in text 3: expected at most {used.max() - 1} tokens, found {used.max()}"):
            tokenizer(texts, length=int(used.max()) - 1)


@pytest.mark.parametrize("rule", ["medclip", "gloria"])
def test_rules_whose_padding_counts_have_one_length(bert_files, rule):
    tokenizer = tokenize.Tokenizer(bert_files, rule=rule)
    with pytest.raises(errors.UsageError, match="features depend on the padding"):
        tokenizer(["a"], length=20)
    assert tokenizer(["a"], length=tokenizer.positions).shape == (1, tokenizer.positions)


def test_the_padding_of_siglip_counts_and_lengths_must_make_sense(siglip_files, packaged):
    with pytest.raises(errors.UsageError, match="features depend on the padding"):
        tokenize.Tokenizer(siglip_files, rule="siglip")(["a"], length=20)
    for length in (0, 1, packaged[1].text.positions + 1):
        with pytest.raises(errors.UsageError, match="expected 2 to"):
            packaged[0](["a"], length=length)


def test_a_model_gets_the_tokenizer_of_its_rule_at_its_towers_length(bert_files, packaged):
    import dataclasses

    spec = packaged[1]
    assert tokenize.tokenizer_for(spec).positions == spec.text.positions
    bert = specs.BertSpec(spec.text.stack, len(VOCABULARY), 24, "cls")
    tokenizer = tokenize.tokenizer_for(dataclasses.replace(spec, directory=bert_files, text=bert, text_rule="biomedclip"))
    assert (tokenizer.positions, tokenizer.rule.cleaning) == (24, "unescaped")
    with pytest.raises(errors.UsageError, match="did you mean 'chexzero'"):
        tokenize.tokenizer_for(dataclasses.replace(spec, text_rule="chexzro"))


def test_bert_files_that_are_missing_or_broken_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match=r"expected vocab.txt or tokenizer.json, found neither"):
        tokenize.Tokenizer(tmp_path, rule="medclip")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.DataError, match="expected a WordPiece vocabulary, found KeyError"):
        tokenize.Tokenizer(tmp_path, rule="medclip")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[CLS]\nheart\n")
    with pytest.raises(errors.DataError, match=r"found no \[UNK\], \[SEP\]"):
        tokenize.Tokenizer(tmp_path, rule="medclip")


def test_more_texts_than_one_chunk_keep_their_order(bert_files, monkeypatch):
    tokenizer = tokenize.Tokenizer(bert_files, 8, "clinical_bert")
    texts = [word for word in WORDS if not word.startswith("##")]
    whole = tokenizer(texts)
    monkeypatch.setattr(tokenize, "_CHUNK", 3)
    np.testing.assert_array_equal(tokenizer(texts), whole)
