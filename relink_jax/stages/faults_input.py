"""Embeddings brought along that cannot be audited: refused with 65 before anything is computed, and no workdir is left behind."""

import io
import pickle
import random
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from relink_jax import config as config_lib
from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_judge import Fault
from relink_jax.stages.faults_scene import Scene

REFUSED = (65,)
_STUDIES, _DIM = 40, 8
Arrays = dict[str, np.ndarray]


def vectors(draw: random.Random) -> Arrays:
    """Returns embeddings of 40 studies, one image and one report each."""
    rows = np.random.default_rng(draw.randrange(2**32)).standard_normal((2, _STUDIES, _DIM)).astype(np.float32)
    numbers = np.arange(_STUDIES)
    return {"images": rows[0], "texts": rows[1], "image_study": numbers, "text_study": numbers.copy(), "patient": numbers // 2}


def _put(name: str, value: float, whole_row: bool = False) -> Callable[[Arrays, random.Random], None]:
    def change(arrays: Arrays, draw: random.Random) -> None:
        row = draw.randrange(_STUDIES)
        arrays[name][(row,) if whole_row else (row, draw.randrange(_DIM))] = value

    return change


def _shorten(name: str, axis: int) -> Callable[[Arrays, random.Random], None]:
    def change(arrays: Arrays, draw: random.Random) -> None:
        arrays[name] = np.delete(arrays[name], draw.randrange(arrays[name].shape[axis]), axis)

    return change


def _repeat(arrays: Arrays, draw: random.Random) -> None:
    one, other = draw.sample(range(_STUDIES), 2)
    arrays["text_study"][one] = arrays["text_study"][other]


INJURIES: dict[str, Callable[[Arrays, random.Random], None]] = {
    "NaN in an image": _put("images", np.nan),
    "-NaN in a report": _put("texts", -float(np.nan)),
    "infinity in an image": _put("images", np.inf),
    "a report of zeros": _put("texts", 0.0, whole_row=True),
    "other dimensions": _shorten("texts", 1),
    "other numbers of rows": _shorten("images", 0),
    "a patient missing": _shorten("patient", 0),
    "a study's report twice": _repeat,
}
FILES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda content, draw: content[: draw.randrange(1, len(content))],
    "emptied": lambda content, draw: b"",
    "a pickle": lambda content, draw: pickle.dumps({"images": [1.0]}),
    "other bytes": lambda content, draw: draw.randbytes(400),
}


def brought(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Audits injured embeddings; yields what was lost, injury by injury."""
    for injury in (*INJURIES, *FILES):
        arrays, place = vectors(draw), scene.root / "vectors"
        INJURIES.get(injury, lambda *_: None)(arrays, draw)
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        place.mkdir(exist_ok=True)
        (place / "embeddings.npz").write_bytes(FILES.get(injury, lambda content, _: content)(stream.getvalue(), draw))
        config = config_lib.from_dict({**config_lib.to_dict(scene.config), "embeddings": str(place)})
        workdir = scene.root / "brought"
        lost = judge.refused(scene.run("audit", workdir, config), REFUSED)
        lost += ["a workdir was left behind"] if workdir.exists() else []
        shutil.rmtree(workdir, ignore_errors=True)
        yield "; ".join(f"{injury}: {one}" for one in lost)


FAULTS = (
    Fault(
        "input-vectors",
        f"embeddings with {', '.join(INJURIES)}; their file {', '.join(FILES)}",
        "exit 65, one sentence, before anything is computed, and no workdir",
        brought,
    ),
)
