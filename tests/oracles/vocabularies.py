"""Small vocabularies in the published file formats: byte-level BPE (CLIP), WordPiece (BERT) and SentencePiece (SigLIP)."""

import io
import json
import pathlib
import string
from collections.abc import Callable

import numpy as np

from oracles import core

_WORDS = ("no", "the", "lung", "heart", "effusion", "acute", "normal", "left", "right", "is")
_PIECES = ("##s", "##al", "##ed", "##ing", "##ly")
_SENTENCES = ("no acute disease", "the heart is normal", "small left pleural effusion", "right lung is clear", "chest tube in place ap pa view 12 cm")
START, END = "<|startoftext|>", "<|endoftext|>"


def write_bpe(directory: pathlib.Path, positions: int) -> int:
    """Writes CLIP's tokenizer files for lower-case letters, digits and a few merges; returns the vocabulary size."""
    symbols = [*string.ascii_lowercase, *string.digits, *".,-/<>"]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    merges = [("t", "h"), ("th", "e</w>"), ("n", "o</w>"), ("i", "n"), ("a", "l</w>"), ("in", "g</w>"), ("l", "u"), ("lu", "n"), ("lun", "g</w>")]
    vocabulary += ["".join(pair) for pair in merges] + [START, END]
    (directory / "vocab.json").write_text(json.dumps({symbol: number for number, symbol in enumerate(vocabulary)}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    core.write_json(directory / "special_tokens_map.json", special)
    core.write_json(directory / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": positions, "do_lower_case": True, **special})
    return len(vocabulary)


def write_wordpiece(directory: pathlib.Path, tokenizer_config: bool = True) -> int:
    """Writes `vocab.txt` and, where the model has one, `tokenizer_config.json`; returns the vocabulary size."""
    letters = [*string.ascii_lowercase, *string.digits]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,-/", *letters, *(f"##{letter}" for letter in letters), *_WORDS, *_PIECES]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    if tokenizer_config:
        core.write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return len(tokens)


def write_sentencepiece(directory: pathlib.Path, positions: int) -> int:
    """Trains and writes `spiece.model` with SigLIP's special ids (pad = end of text = 1, unknown 2, no start); returns the vocabulary size."""
    import sentencepiece

    model = io.BytesIO()
    options = {"vocab_size": 60, "model_type": "unigram", "character_coverage": 1.0, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
    options |= {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>", "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(_SENTENCES * 20), model_writer=model, **options)
    (directory / "spiece.model").write_bytes(model.getvalue())
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    core.write_json(directory / "special_tokens_map.json", special)
    fields = {"tokenizer_class": "SiglipTokenizer", "model_max_length": positions, "do_lower_case": True, "sp_model_kwargs": {}, **special}
    core.write_json(directory / "tokenizer_config.json", {**fields, "model_input_names": ["input_ids"]})
    return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size())


def bpe_ids(vocabulary: int, positions: int, pad: int) -> Callable[[int], np.ndarray]:
    """Returns a maker of ids [positions]: start, text of random length, end, padding."""
    return _ids(vocabulary, positions, lambda text: [vocabulary - 2, *text, vocabulary - 1], vocabulary - 2, 0, pad)


def wordpiece_ids(vocabulary: int, length: int) -> Callable[[int], np.ndarray]:
    """Returns a maker of ids [length]: [CLS], text of random length, [SEP], padding."""
    return _ids(vocabulary, length, lambda text: [2, *text, 3], vocabulary, 5, 0)


def sentencepiece_ids(vocabulary: int, positions: int) -> Callable[[int], np.ndarray]:
    """Returns a maker of ids [positions]: text of random length, end, padding with the end's id."""
    return _ids(vocabulary, positions, lambda text: [*text, 1], vocabulary, 3, 1)


def _ids(vocabulary: int, length: int, framed: Callable[[list[int]], list[int]], highest: int, lowest: int, pad: int) -> Callable[[int], np.ndarray]:
    extra = len(framed([]))

    def sample(seed: int) -> np.ndarray:
        draw = np.random.default_rng(seed)
        words = length - extra if seed % 3 == 2 else int(draw.integers(1, length - extra))
        text = framed(draw.integers(lowest, highest, words).tolist())
        return np.asarray(text + [pad] * (length - len(text)), np.int32)

    return sample
