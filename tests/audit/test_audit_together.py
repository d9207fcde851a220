"""An audit on two processes of four devices each: the integers of one process, and a stop of one that stops both and loses nothing."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from relink_jax.audit import adversary, inputs, run
from relink_jax.retrieval import loop, resume
from relink_jax.runtime import mesh as meshes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHILD = """
import sys, pathlib
import jax, numpy as np
port, index, out, here = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
jax.config.update("jax_disable_most_optimizations", True)
jax.distributed.initialize("127.0.0.1:" + port, 2, index, initialization_timeout=60)
sys.path.insert(0, here)
import test_audit_together as shared
from relink_jax import errors
from relink_jax.runtime import stopping
assert jax.device_count() == 8 and jax.process_count() == 2
shared.long_passes()
tried = shared.attacks_tried(lambda: stopping.ask() if index == 1 and len(tried) == 1 else None)
try:
    shared.audited(out / "kept")
    raise SystemExit("not stopped")
except errors.StoppedError:
    stopping.forget()
assert tried == ["study_mean"], tried
np.savez(out / f"{index}.npz", **shared.audited(out / "kept"))
assert tried == ["study_mean", "study_mean", "ridge.all"], tried  # it stopped after a part of the first
"""


def long_passes() -> None:
    """Makes every pass keep its parts."""
    loop.LONG, resume.PARTS = 1, 2


def attacks_tried(then=lambda: None) -> list[str]:
    """Returns a list of the attacks that are tried from now on; `then` is called with each."""
    tried: list[str] = []
    honest = adversary.measured

    def measured(attack, *given):
        tried.append(adversary.label_of(attack))
        then()
        return honest(attack, *given)

    adversary.measured = measured
    return tried


def audited(directory=None) -> dict[str, np.ndarray]:
    """Returns every integer of an audit over all devices of all processes; embeddings are small whole numbers."""
    draw = np.random.default_rng(3)
    texts = draw.integers(-2, 3, (90, 6)).astype(np.float32)
    texts[texts.any(axis=1) == 0] = 1
    study = draw.integers(0, 90, 150)
    images = texts[study] + draw.integers(-1, 2, (150, 6))
    images[images.any(axis=1) == 0] = 1
    labels = np.full((90, 14), np.nan)
    labels[:, 0] = draw.integers(0, 2, 90)
    prepared = inputs.prepare(images=images, texts=texts, image_study=study, text_study=range(90), patient=np.arange(90) // 2, labels=labels, normalize=False)
    options = {
        "attacks": ("study_mean", "ridge"),
        "measures": ("blocks", "shuffle", "verification"),
        "bootstrap_replicates": 100,
        "pool_sizes": (5,),
        "ks": (1,),
    }
    found = run.audit_inputs(prepared, mesh=meshes.make_mesh(), directory=directory, **options)
    out = {f"{'/'.join(key)}/{name}": array for key, counted in found.counts.items() for name, array in counted.items()}
    for label in ("study_mean", "shuffle"):
        out |= {f"{label}/{stratum}/{name}": getattr(one, name) for stratum, one in found.per_image.attacks[label].items() for name in "Mgt"}
    return out | {"thresholds": np.array(found.given.verification.points)}


@pytest.mark.usefixtures("quick")
def test_two_processes_audit_what_one_audits_and_stop_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", CHILD, port]
    more = [str(tmp_path), str(pathlib.Path(__file__).resolve().parent)]
    options = {"env": environment, "cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    children = [subprocess.Popen([*words, str(index), *more], **options) for index in range(2)]
    failures = [child.communicate(timeout=240)[1].decode()[-2000:] for child in children]
    assert [child.returncode for child in children] == [0, 0], failures
    alone = audited()
    for index in range(2):
        together = np.load(tmp_path / f"{index}.npz")
        assert set(together) == set(alone)
        for name in alone:
            np.testing.assert_array_equal(together[name], alone[name], err_msg=name)
