"""Report text to token ids with the checkpoint's own tokenizer, and the training of a small one.

`Tokenizer` is transformers' fast CLIP tokenizer, read from the checkpoint's files alone (nothing is looked up by name and
nothing is fetched). Ids are padded to the tower's positions; a longer text keeps its first tokens and ends in the
end-of-text token, as CLIP does.

`train` builds a byte-level BPE in CLIP's form for the synthetic models: lower case, `</w>` at word ends, the 256 byte
symbols with and without it first, then merges, then `<|startoftext|>` and `<|endoftext|>` as the two highest ids.
"""

import json
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store import files

START, END = "<|startoftext|>", "<|endoftext|>"


class Tokenizer:
    """Token ids [n, positions] of texts, padded and truncated to `positions`."""

    def __init__(self, directory: pathlib.Path, positions: int) -> None:
        """Reads the tokenizer files of a checkpoint directory.

        Raises: DataError: no tokenizer files, or files with which transformers cannot encode a text.
        """
        if not ((directory / "tokenizer.json").is_file() or all((directory / name).is_file() for name in ("vocab.json", "merges.txt"))):
            raise errors.DataError(
                errors.describe("tokenizer missing", f"model directory {directory.name!r}", "tokenizer.json, or vocab.json with merges.txt", "neither")
            )
        try:
            self._fast = _clip_tokenizer_class().from_pretrained(str(directory), local_files_only=True)
            self.positions = positions
            ids = self(["a report"])
            if ids.shape != (1, positions) or self.end_id not in ids:
                raise ValueError("a text without its end")
        except Exception as error:
            raise errors.DataError(
                errors.describe("tokenizer unreadable", f"model directory {directory.name!r}", "a CLIP tokenizer", type(error).__name__)
            ) from error

    @property
    def highest_id(self) -> int:
        """Largest id that a text can get."""
        return int(max(self._fast.get_vocab().values()))

    @property
    def end_id(self) -> int:
        """Id of the token that ends every text."""
        return int(self._fast.eos_token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the two special tokens included."""
        return len(self._fast)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 ids [n, positions]: start token, text, end token, padding."""
        if not len(texts):
            return np.zeros((0, self.positions), np.int32)
        encoded = self._fast(list(texts), padding="max_length", truncation=True, max_length=self.positions)
        return np.asarray(encoded["input_ids"], np.int32)


def train(texts: Iterable[str], directory: pathlib.Path, *, merges: int, positions: int) -> None:
    """Trains a byte-level BPE on `texts` and writes vocab.json, merges.txt, tokenizer.json and the two config files.

    Args: merges: merge rules learned at most; the vocabulary has 514 more entries. positions: `model_max_length`.
    """
    from tokenizers import pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = _clip_tokenizer_class()(vocab={END: 0}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=512 + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=[], show_progress=False)
    learner.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges]
    symbols = alphabet + [f"{symbol}</w>" for symbol in alphabet] + ["".join(pair) for pair in pairs] + [START, END]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    final = _clip_tokenizer_class()(vocab=vocabulary, merges=pairs, model_max_length=positions)
    files.write_json(directory / "vocab.json", vocabulary)
    files.write_text(directory / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs))
    files.write_text(directory / "tokenizer.json", final.backend_tokenizer.to_str(pretty=True) + "\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    files.write_json(directory / "special_tokens_map.json", special)
    files.write_json(directory / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": positions, **special})


def _clip_tokenizer_class() -> Any:
    """Returns transformers' CLIP tokenizer class; its advice to install torch is silenced, as no torch is needed here."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    logger.setLevel(level)
    return CLIPTokenizer
