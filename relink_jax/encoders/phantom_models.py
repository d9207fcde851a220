"""Makes the four synthetic dual encoders: population, tokenizer, one training in rungs, files in the published layout.

One model is trained; its state is written four times: untrained, after learning label captions, after a short and after a
long time on whole reports. The training population is synthetic site A under a seed of its own, so that the demo's
population and the whole of site B are unseen. Validation patients, which choose nothing but the best state of each rung,
come from the next seed.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from relink_jax.cohort.phantom import captions, people
from relink_jax.encoders import convert, phantom_training, preprocess, specs, tokenize, towers, zoo
from relink_jax.store import files

SIDE = 64
_RENDERED = 128
_MEAN, _STD = 0.5, 0.25
_MERGES, _POSITIONS = 2000, 112
_VALIDATION, _EVERY = 1500, 200


@dataclasses.dataclass(frozen=True)
class Rung:
    """One stage of the training: which text, how much of the budget, how."""

    name: str
    text: str
    share: float
    batch_size: int
    learning_rate: float


RUNGS = (
    Rung("phantom-0-untrained", "", 0.0, 0, 0.0),
    Rung("phantom-1-labels", "captions", 0.14, 128, 2e-3),
    Rung("phantom-2-reports", "reports", 0.12, 128, 2e-3),
    Rung("phantom-3-specialist", "reports", 0.74, 128, 2e-3),
)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Images uint8 [I, 64, 64] as preprocessing leaves them, with the report and the label caption of each and its study."""

    images: np.ndarray
    reports: list[str]
    captions: list[str]
    study: np.ndarray


def corpus(seed: int, patients: int) -> Corpus:
    """Returns the frontal images of site A of the population `seed`, preprocessed as the models' config says."""
    recipe = preprocess.PreprocessSpec(SIDE, None, 3, (SIDE, SIDE), 1 / 255, (_MEAN,) * 3, (_STD,) * 3)
    images, reports, named, study = [], [], [], []
    for record in people.population(seed, patients, _RENDERED, sites=("A",)):
        images.append(preprocess.resized(record.image, recipe))
        reports.append(record.text)
        named.append(captions.caption(record.labels.tolist()))
        study.append(record.patient_index * 10 + record.study_order)
    return Corpus(np.stack(images), reports, named, np.asarray(study))


def make(
    out: pathlib.Path, training: Corpus, validation: Corpus, seed: int, *, minutes: float = 0.0, steps: int = 0, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Trains and writes every rung under `out`; returns the log that is also written beside each rung as training.json.

    Args:
        minutes: wall time of all rungs together; or steps: their number. Both are shared out by `Rung.share`.
        say: called with one line per validation.
    """
    first = out / RUNGS[0].name
    tokenize.train([*sorted(set(training.reports)), *training.captions], first, merges=_MERGES, positions=_POSITIONS)
    tokenizer = tokenize.Tokenizer(first, _POSITIONS)
    for rung in RUNGS:
        _write_files(out / rung.name, first, tokenizer.vocab_size)
    spec = zoo.from_directory(first)
    rows = np.random.default_rng(seed).permutation(np.unique(validation.study, return_index=True)[1])[:_VALIDATION]
    checked = _pairs(tokenizer, validation.images[rows], [validation.reports[row] for row in rows])
    card = {"seed": seed, "images": len(training.images), "studies": len(np.unique(training.study)), "validation_studies": len(rows)}
    params, log = towers.init(spec, jax.random.key(seed)), {}
    for rung in RUNGS:
        recorder = Recorder(out / rung.name, spec, checked, card, say)
        if not rung.share:
            recorder.check(0, 0.0, params)
        else:
            pairs = _pairs(tokenizer, training.images, getattr(training, rung.text))
            budget = phantom_training.Budget(round(steps * rung.share), minutes * 60 * rung.share)
            recipe = phantom_training.Recipe(rung.batch_size, rung.learning_rate, _MEAN, _STD, seed)
            phantom_training.train(spec, params, pairs, recipe, budget, _EVERY, recorder.check)
            params = recorder.best
        log[rung.name] = recorder.entries
    return {**card, "rungs": log}


class Recorder:
    """Validates the states of one rung and keeps the best of them on disk, so that an early end still leaves a model."""

    def __init__(self, directory: pathlib.Path, spec: specs.VLMSpec, pairs: phantom_training.Pairs, card: dict[str, Any], say: Callable[[str], None]) -> None:
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self._directory, self._spec, self._pairs, self._card, self._say = directory, spec, pairs, card, say
        self._recall = -1.0

    def check(self, step: int, loss: float, params: dict[str, Any]) -> None:
        """Measures validation Recall@1 of `params` and writes them unless an earlier state of this rung was better."""
        image, text = phantom_training.embed_pairs(self._spec, params, self._pairs, _MEAN, _STD)
        recall = {str(pool): round(phantom_training.validation_recall(image, text, self._pairs.text, pool), 5) for pool in (100, 1000) if pool <= len(image)}
        self.entries.append({"step": step, "loss": round(loss, 4), "recall_at_1": recall})
        self._say(f"{self._directory.name:<22} step {step:>6}  loss {loss:.3f}  validation R@1 {recall}")
        score = sum(recall.values())
        if score >= self._recall:
            self._recall, self.best = score, jax.tree.map(np.asarray, params)
            convert.write_checkpoint(self._directory / convert.WEIGHTS, convert.export_state(params, params["heads"], float(params["logit_scale"])))
            files.write_json(self._directory / "training.json", {**self._card, "steps": step, "rungs": {self._directory.name: self.entries}})


def _pairs(tokenizer: tokenize.Tokenizer, images: np.ndarray, texts: list[str]) -> phantom_training.Pairs:
    unique, row = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    return phantom_training.Pairs(images, row.astype(np.int32), tokenizer(list(unique)))


def _write_files(directory: pathlib.Path, tokenizer_from: pathlib.Path, vocabulary: int) -> None:
    """Writes config, preprocessing and tokenizer files of one model directory."""
    common = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 64, "attention_dropout": 0.0}
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "num_channels": 3,
    }
    text = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": _POSITIONS,
    }
    ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 64,
        "logit_scale_init_value": 2.6592,
        "vision_config": {"model_type": "clip_vision_model", **vision, **common},
        "text_config": {"model_type": "clip_text_model", **text, **ids, **common},
    }
    files.write_json(directory / specs.CONFIG, config)
    steps = {"do_convert_rgb": True, "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3, "rescale_factor": 1 / 255}
    statistics = {"image_mean": [_MEAN] * 3, "image_std": [_STD] * 3}
    files.write_json(directory / preprocess.FILE, {"image_processor_type": "CLIPImageProcessor", **steps, **sizes, **statistics})
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        files.write_bytes(directory / name, (tokenizer_from / name).read_bytes())
