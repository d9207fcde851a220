"""Two processes draw one secret, the same batches and the same noise, and end with the same heads; their secrets are still fresh each time."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHILD = """
import sys, pathlib
import jax, numpy as np
port, index, out, here = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize("127.0.0.1:" + port, 2, index, initialization_timeout=60)
sys.path.insert(0, here)
from conftest import make_toy
from relink_jax.privacy import clipping, options, randomness, sampling, training
import fractions
assert jax.process_count() == 2
secrets = [randomness.fresh() for _ in range(2)]
assert secrets[0].seed != secrets[1].seed
batches = [sampling.PoissonSampler(np.arange(50), fractions.Fraction(1, 3), one).averaged(7).rows for one in secrets]
toy = make_toy()
given = options.Options(expected_batch_size=10, iterations=3, learning_rate=0.1)
trained = training.train_heads(toy.heads, clipping.Records(toy.images, toy.texts), toy.patient, toy.bank, given)
keys = [np.asarray(jax.random.key_data(one.key("noise", 2))) for one in secrets]
np.savez(pathlib.Path(out) / f"{index}.npz", first=batches[0], second=batches[1], keys=keys, image=trained.heads["image"]["kernel"])
"""


def test_processes_agree_on_every_draw_and_on_the_heads(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    here = str(pathlib.Path(__file__).parent)
    children = [subprocess.Popen([sys.executable, "-c", CHILD, port, str(index), str(tmp_path), here], env=environment) for index in range(2)]
    assert [child.wait(timeout=240) for child in children] == [0, 0]
    one, other = (np.load(tmp_path / f"{index}.npz") for index in range(2))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    assert not np.array_equal(one["first"], one["second"])
