"""Two processes draw one secret, the same batches and the same noise, and end with the same heads; a state goes on under other devices."""

import pathlib

import jax
import numpy as np
import pytest
import several
from conftest import make_toy

from relink_jax import errors
from relink_jax.privacy import clipping, options, randomness, training
from relink_jax.runtime import stopping

HERE = f"sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
CHILD = """
import pathlib
import numpy as np
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
np.savez(pathlib.Path(words[0]) / f"{process}.npz", first=batches[0], second=batches[1], keys=keys, image=trained.heads["image"]["kernel"])
"""
RESUMING = """
import numpy as np
import test_privacy_two_processes as shared
assert jax.device_count() == 2
np.savez(words[0] + "/resumed.npz", **shared.trained(words[0] + "/run")["image"])
"""


def trained(directory):
    """Returns the heads of a training with Adam that keeps a state every third step."""
    toy = make_toy()
    given = options.Options(expected_batch_size=10, iterations=12, learning_rate=0.1, checkpoint_every=3, optimizer="adam")
    path = pathlib.Path(directory) / "privacy_ledger.json"
    return training.train_heads(toy.heads, clipping.Records(toy.images, toy.texts), toy.patient, toy.bank, given, ledger_path=path).heads


@pytest.mark.slow  # process 0 trains alone in every command
def test_processes_agree_on_every_draw_and_on_the_heads(tmp_path):
    ended = several.python(HERE + CHILD, 2, 4, [tmp_path])
    assert [one.code for one in ended] == [0, 0], [one.err[-2000:] for one in ended]
    one, other = (np.load(tmp_path / f"{index}.npz") for index in range(2))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    assert not np.array_equal(one["first"], one["second"])


def test_a_training_that_stopped_under_eight_devices_goes_on_under_two(tmp_path, monkeypatch):
    monkeypatch.setattr(randomness, "fresh", lambda seed=None: randomness.Secret(bytes(range(32))))
    assert jax.device_count() == 8
    whole = trained(tmp_path / "whole")
    stopping.ask()
    with pytest.raises(errors.StoppedError, match="train heads stopped as asked"):
        trained(tmp_path / "run")
    stopping.forget()
    assert [path.name for path in sorted((tmp_path / "run").glob("*.safetensors"))] == ["training_state-00000003.safetensors"]
    ended = several.python(HERE + RESUMING, 1, 2, [tmp_path])
    assert ended[0].code == 0, ended[0].err[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "resumed.npz")["kernel"], whole["image"]["kernel"])
