"""Report text to token ids by a model's text rule, and the training of a small tokenizer.

A rule (`RULES`) names the vocabulary's kind, the length, what is done to the text first (`cleaning`) and whether padding is harmless.
Everything is read from the checkpoint's files alone: nothing is looked up by name and nothing is fetched.

  clip    transformers' fast CLIP tokenizer from tokenizer.json, or vocab.json with merges.txt
  bert    uncased WordPiece over the words of vocab.txt, or of tokenizer.json; lower case even over a cased vocabulary, because
          Bio_ClinicalBERT's users were trained that way
  siglip  SentencePiece from spiece.model; the tokenizer.json beside it keeps '/', '<' and '>' and is refused as a stand-in

Ids are framed by the kind's start and end tokens and padded to the length. A longer text keeps its first tokens and its end token,
including where upstream raises (BioViL above 512, CheXzero's and CLIP's own `tokenize` above 77).

`train` builds a byte-level BPE in CLIP's form for the synthetic models: lower case, `</w>` at word ends, the 256 byte
symbols with and without it first, then merges, then `<|startoftext|>` and `<|endoftext|>` as the two highest ids.
"""

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.encoders import cleaning, specs
from relink_jax.store import files

START, END = "<|startoftext|>", "<|endoftext|>"
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class TokenRule:
    """One text rule.

    `kind`: clip, bert or siglip. `length`: positions, unless the tower's spec gives fewer. `cleaning`: a name of `cleaning.CLEANING`.
    `bucketed`: whether features do not depend on the padding, so that a batch may be cut to its longest text. `refused`: strings that
    no text may hold.
    """

    kind: str
    length: int
    cleaning: str = "unchanged"
    bucketed: bool = False
    refused: tuple[str, ...] = ()


RULES: dict[str, TokenRule] = {
    "clip": TokenRule("clip", 77, bucketed=True),
    "chexzero": TokenRule("clip", 77, "impression", bucketed=True),
    "biomedclip": TokenRule("bert", 256, "unescaped", bucketed=True),
    "cxr_bert": TokenRule("bert", 512, "unended", bucketed=True, refused=_BERT_SPECIAL[:-1]),
    "clinical_bert": TokenRule("bert", 256, bucketed=True),
    "medclip": TokenRule("bert", 77),
    "gloria": TokenRule("bert", 97, "sentences"),
    "siglip": TokenRule("siglip", 64, "canonical"),
}


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    """How a kind cuts texts into ids (at most so many each), the ids that frame and pad them, and its extent.

    `pooled`: whether a tower finds its pooling position by the end token.
    """

    cut: Callable[[list[str], int], list[list[int]]]
    start: int | None
    end: int
    pad: int
    highest: int
    size: int
    pooled: bool = False


class Tokenizer:
    """Token ids [n, positions] of texts, padded and truncated to `positions`."""

    def __init__(self, directory: pathlib.Path, positions: int | None = None, rule: str = "clip") -> None:
        """Reads the tokenizer files of a checkpoint directory.

        Args: positions: length of a row, the rule's own when None. rule: a name of `RULES`.
        Raises: DataError: no tokenizer files, or files that cannot encode a text. UsageError: no such rule, or a package is missing.
        """
        if rule not in RULES:
            raise errors.UsageError(
                errors.describe("text rule", f"model directory {directory.name!r}", f"one of {', '.join(map(repr, RULES))}", repr(rule))
                + errors.suggest(rule, RULES)
            )
        self.rule = RULES[rule]
        self.positions = self.rule.length if positions is None else positions
        name, load = _KINDS[self.rule.kind]
        try:
            self._vocabulary = load(directory)
            ids = self(["a report"])
            if ids.shape != (1, self.positions) or self._vocabulary.end not in ids:
                raise ValueError("a text without its end")
        except errors.RelinkError:
            raise
        except Exception as error:
            raise errors.DataError(errors.describe("tokenizer unreadable", f"model directory {directory.name!r}", name, type(error).__name__)) from error

    @property
    def highest_id(self) -> int:
        """Largest id that a text can get."""
        return self._vocabulary.highest

    @property
    def end_id(self) -> int | None:
        """Id of the token that ends every text, where the tower pools at it; None where pooling needs no id."""
        return self._vocabulary.end if self._vocabulary.pooled else None

    @property
    def pad_id(self) -> int:
        """Id that fills the rest of a row."""
        return self._vocabulary.pad

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special tokens included."""
        return self._vocabulary.size

    def __call__(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Returns int32 ids [n, length or positions]: start token where the kind has one, text, end token, padding.

        Args: length: fewer columns than `positions`, for a rule whose padding is harmless; every text must fit.
        Raises: DataError: a text holds a string that the rule refuses. UsageError: a length that would change what a text means.
        """
        columns = self._columns(length)
        clean, frame = cleaning.CLEANING[self.rule.cleaning], [] if self._vocabulary.start is None else [self._vocabulary.start]
        ids = np.full((len(texts), columns), self._vocabulary.pad, np.int32)
        for first in range(0, len(texts), _CHUNK):
            chunk = texts[first : first + _CHUNK]
            self._check(chunk, first)
            room = self.positions - len(frame) - 1
            for row, body in enumerate(self._vocabulary.cut([clean(text) for text in chunk], room), first):
                framed = [*frame, *body[:room], self._vocabulary.end]
                if len(framed) > columns:
                    raise errors.UsageError(errors.describe("text length", f"text {row + 1}", f"at most {columns} tokens", str(len(framed))))
                ids[row, : len(framed)] = framed
        return ids

    def used(self, ids: np.ndarray) -> np.ndarray:
        """Returns int32 [n]: positions of each row of ids [n, L] up to its end token, padding not counted."""
        if self._vocabulary.pad == self._vocabulary.end:
            return np.argmax(ids == self._vocabulary.end, axis=1).astype(np.int32) + np.int32(1)
        return (ids.shape[1] - np.argmax(ids[:, ::-1] != self._vocabulary.pad, axis=1)).astype(np.int32)

    def _columns(self, length: int | None) -> int:
        if length is None or length == self.positions:
            return self.positions
        if not self.rule.bucketed or not 1 < length < self.positions:
            expected = f"2 to {self.positions} tokens" if self.rule.bucketed else f"{self.positions} tokens: features depend on the padding"
            raise errors.UsageError(errors.describe("text length", "tokenizer", expected, str(length)))
        return length

    def _check(self, texts: Sequence[str], first: int) -> None:
        for row, text in enumerate(texts, first + 1):
            found = [word for word in self.rule.refused if word in text]
            if found:
                raise errors.DataError(errors.describe("special token", f"text {row}", "none, as its model was trained without", ", ".join(found)))


def tokenizer_for(spec: specs.VLMSpec) -> Tokenizer:
    """Returns the tokenizer of a model by its text rule, at its text tower's length; errors as in `Tokenizer`."""
    return Tokenizer(spec.directory, spec.text.length if isinstance(spec.text, specs.BertSpec) else spec.text.positions, spec.text_rule)


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


def _load_clip(directory: pathlib.Path) -> _Vocabulary:
    if not ((directory / "tokenizer.json").is_file() or all((directory / name).is_file() for name in ("vocab.json", "merges.txt"))):
        raise _missing(directory, "tokenizer.json, or vocab.json with merges.txt", "neither")
    fast = _clip_tokenizer_class().from_pretrained(str(directory), local_files_only=True)

    def cut(texts: list[str], room: int) -> list[list[int]]:
        return fast(texts, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]

    end, pad = int(fast.eos_token_id), int(fast.pad_token_id)
    return _Vocabulary(cut, int(fast.bos_token_id), end, pad, int(max(fast.get_vocab().values())), len(fast), pooled=True)


def _load_bert(directory: pathlib.Path) -> _Vocabulary:
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    if (directory / "vocab.txt").is_file():
        with (directory / "vocab.txt").open(encoding="utf-8") as lines:
            words = {line.rstrip("\n"): index for index, line in enumerate(lines)}
    elif (directory / "tokenizer.json").is_file():
        words = dict(json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    else:
        raise _missing(directory, "vocab.txt or tokenizer.json", "neither")
    lacking = [word for word in _BERT_SPECIAL[:-1] if word not in words]
    if lacking:
        raise errors.DataError(errors.describe("special tokens", f"vocabulary of {directory.name!r}", "[PAD], [UNK], [CLS], [SEP]", f"no {', '.join(lacking)}"))
    pieces = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=100))
    pieces.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.add_special_tokens([word for word in _BERT_SPECIAL if word in words])

    def cut(texts: list[str], room: int) -> list[list[int]]:
        return [encoding.ids[:room] for encoding in pieces.encode_batch(texts, add_special_tokens=False)]

    return _Vocabulary(cut, words["[CLS]"], words["[SEP]"], words["[PAD]"], max(words.values()), len(words))


def _load_siglip(directory: pathlib.Path) -> _Vocabulary:
    if not (directory / "spiece.model").is_file():
        other = (directory / "tokenizer.json").is_file()
        found = "tokenizer.json alone, which keeps '/', '<' and '>' and so gives 'AP/PA' other tokens than the model was trained on" if other else "none"
        raise _missing(directory, "spiece.model", found)
    try:
        import sentencepiece
    except ImportError as error:
        raise errors.UsageError(
            errors.describe("package missing", "SigLIP's tokenizer", "sentencepiece, which `pip install 'relink_jax[siglip]'` brings", "none")
        ) from error
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spiece.model"))
    end, size = int(pieces.eos_id()), int(pieces.get_piece_size())
    if end < 0:
        raise ValueError("no end token")

    def cut(texts: list[str], room: int) -> list[list[int]]:
        return [list(ids)[:room] for ids in pieces.encode(texts, out_type=int)]

    return _Vocabulary(cut, None, end, end, size - 1, size)


def _missing(directory: pathlib.Path, expected: str, found: str) -> errors.DataError:
    return errors.DataError(errors.describe("tokenizer missing", f"model directory {directory.name!r}", expected, found))


_KINDS: dict[str, tuple[str, Callable[[pathlib.Path], _Vocabulary]]] = {
    "clip": ("a CLIP tokenizer", _load_clip),
    "bert": ("a WordPiece vocabulary", _load_bert),
    "siglip": ("a SentencePiece model", _load_siglip),
}
