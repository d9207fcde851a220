"""One counting pass at full-database size on seeded unit vectors: `python -m launch.full_pass --workdir=DIR`.

Both directions, other-patient and label-matched, top-10 lists of the images. The pass keeps its parts under the workdir: kill it and run
the command again, and it goes on. At the end it prints the time and peak memory of this process, and a digest of every integer, which
does not depend on where it was stopped.
"""

import pathlib
import resource
import time

import numpy as np
from absl import app, flags

from relink_jax.retrieval import counts
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan
from relink_jax.store import digests

_ROWS = flags.DEFINE_integer("rows", 406_241, "images, and as many studies, two a patient", lower_bound=2)
_DIM = flags.DEFINE_integer("dim", 512, "embedding width D", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", None, "where finished parts are kept", required=True)


def records(rows: int, dim: int) -> Records:
    """Returns seeded unit vectors: every image near its own report, one report in twelve a copy of another, 200 label codes."""
    generator = np.random.default_rng(0)

    def unit(array: np.ndarray) -> np.ndarray:
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        return array

    number = np.arange(rows, dtype=np.int32)
    text = np.where(generator.random(rows) < 1 / 12, generator.integers(0, rows, rows), number).astype(np.int32)
    texts = unit(generator.standard_normal((rows, dim), dtype=np.float32))
    images = unit(0.2 * texts[text] + unit(generator.standard_normal((rows, dim), dtype=np.float32)))
    return Records(images, number, texts, text, number // 2, {LABEL_MATCHED: generator.integers(-1, 200, rows).astype(np.int32)})


def main(argv: list[str]) -> None:
    """Counts, and prints what it took and what was found."""
    del argv
    meshes.share_cpu()
    data = records(_ROWS.value, _DIM.value)
    before, started = _peak(), time.monotonic()
    found = counts.count(data, mesh=meshes.make_mesh(), lists=(I2R,), directory=pathlib.Path(_WORKDIR.value))
    spent = time.monotonic() - started
    integers = {
        f"{direction}/{name}/{field}": getattr(stratum, field) for direction, one in found.items() for name, stratum in one.strata.items() for field in "Mgt"
    }
    counted = found[I2R].strata["other_patient"]
    print(f"{_ROWS.value:,} images against {_ROWS.value:,} studies, D = {_DIM.value}, both directions, two strata, top-10 lists of the images")
    print(f"this process: {spent:,.0f} s, {plan.human(_peak() - before, 'B')} beyond the inputs at its peak")
    print(f"full-pool i2r Recall@1 without ties {float(((counted.g == 0) & (counted.t == 0)).mean()):.6f}; queries that tie {int((counted.t > 0).sum()):,}")
    print(f"digest of all integers and lists: {digests.arrays_digest(integers | {'top': found[I2R].top_id})}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    app.run(main)
