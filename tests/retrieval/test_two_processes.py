"""The counting pass on two processes with four devices each gives the integers of one process."""

import pathlib

import numpy as np
import several

from relink_jax.retrieval import counts, engine
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.retrieval.layout import SPLITS, Layout
from relink_jax.runtime import mesh as meshes

HERE = str(pathlib.Path(__file__).resolve().parent)
CHILD = """
import pathlib
import numpy as np
sys.path.insert(0, words[1])
import test_two_processes as shared
out = pathlib.Path(words[0])
assert jax.device_count() == 8 and jax.process_count() == 2
np.savez(out / f"{process}.npz", **shared.counted(out / "parts"))
taken = shared.steps_taken()
assert shared.counted(out / "parts").keys() and not taken, taken
"""


def records() -> Records:
    """Small-integer embeddings with duplicates, so that every score is exact and ties are many."""
    generator = np.random.default_rng(5)
    texts = np.unique(generator.integers(-2, 3, (60, 6)), axis=0).astype(np.float32)
    study_text = generator.integers(0, len(texts), 150).astype(np.int32)
    study_text[: len(texts)] = np.arange(len(texts))
    image_study = generator.integers(0, 150, 230).astype(np.int32)
    images = generator.integers(-2, 3, (230, 6)).astype(np.float32)
    patient, code, block = (generator.integers(low, high, size).astype(np.int32) for low, high, size in ((0, 70, 150), (-1, 4, 150), (0, 3, 70)))
    return Records(images, image_study, texts, study_text, patient, {LABEL_MATCHED: code}, block[patient])


def steps_taken() -> list[int]:
    """Returns a list that grows with every batch from now on."""
    taken: list[int] = []
    honest = engine.Engine.batch
    engine.Engine.batch = lambda *given: (taken.append(1), honest(*given))[1]
    return taken


def counted(directory: pathlib.Path | None = None) -> dict[str, np.ndarray]:
    """Returns every integer of the pass over all devices of all processes."""
    flat = {}
    for split in SPLITS:
        found = counts.count(records(), mesh=meshes.make_mesh(), top_k=5, layout=Layout(split, 64, 128), directory=directory and directory / split)
        for direction, one in found.items():
            flat[f"{split}/{direction}/top"] = one.top_id
            for stratum, integers in one.strata.items():
                for block, counted in enumerate([integers, *one.blocks[stratum]]):
                    flat |= {f"{split}/{direction}/{stratum}/{block}/{name}": getattr(counted, name) for name in "Mgt"}
    return flat


def test_two_processes_count_what_one_counts(tmp_path):
    ended = several.python(CHILD, 2, 4, [tmp_path, HERE])
    assert [one.code for one in ended] == [0, 0], [one.err[-2000:] for one in ended]
    alone = counted()
    for index in range(2):
        together = np.load(tmp_path / f"{index}.npz")
        assert set(together) == set(alone)
        for name in alone:
            np.testing.assert_array_equal(together[name], alone[name], err_msg=name)
