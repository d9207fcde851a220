"""`relink bench heads`: the closed form is held against vmap(grad) first, contestants that are missing are named, and steps are whole steps."""

import importlib.util
import json

import numpy as np
import pytest

from relink_jax import cli, errors
from relink_jax.privacy import clipping, peers
from relink_jax.stages import bench_heads

pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in {"_FEATURES": 24, "_EMBEDDING": 16, "_ANCHORS": 12, "_PATCHES": 6, "_CHANNELS": 20}.items():
        monkeypatch.setattr(bench_heads, name, size)


@pytest.mark.parametrize("forms", [("linear", "mlp"), pytest.param(("patch",), marks=pytest.mark.slow)])
def test_the_command_prints_and_writes_what_it_measured(tmp_path, capsys, forms):
    path = tmp_path / "heads.json"
    assert cli.main(["bench", "heads", "--batch=8", f"--form={','.join(forms)}", "--rounds=1", "--peers=vmap,opacus_ghost", f"--json={path}"]) == 0
    cases = json.loads(path.read_text())["cases"]
    assert [case["form"] for case in cases] == list(forms)
    for case in cases:
        assert case["ratios"]["vmap(grad)"] > 0
        assert case["difference"] < 1e-5
        assert min(case["temporaries"]) > 0
    told = capsys.readouterr().out
    assert "sum share" in told
    assert ("not installed, skipped: Opacus ghost" in told) is ("linear" in forms and importlib.util.find_spec("opacus") is None)


def test_a_closed_form_that_is_off_is_refused(monkeypatch):
    honest = clipping.clipped_sum

    def wrong(*given, implementation, **named):
        found = honest(*given, implementation=implementation, **named)
        value = found.value
        if implementation == "closed_form":
            value = {side: {name: 1.001 * np.asarray(leaf) for name, leaf in head.items()} for side, head in value.items()}
        return clipping.ClippedSum(value, found.sensitivity, found.relation)

    monkeypatch.setattr(clipping, "clipped_sum", wrong)
    with pytest.raises(errors.UnsoundError, match="closed form in bench heads, linear"):
        bench_heads.measure("linear", 8, 1, ())


def test_an_unknown_form_is_named(capsys):
    assert cli.main(["bench", "heads", "--form=linaer"]) == 2
    assert "did you mean 'linear'" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_peers_take_a_step_where_they_are_installed(name):
    pytest.importorskip("jax_privacy" if name == "jax_privacy" else "opacus")
    peers.PEERS[name][1](peers.anchor_task(8, (24, 16), 12))()


def test_jax_privacy_clips_to_the_same_sum():
    theirs = pytest.importorskip("jax_privacy.clipping")
    task = peers.anchor_task(32, (24, 16), 12)
    every = clipping.Batch(np.arange(32, dtype=np.int32)[:, None], np.ones((32, 1), np.float32))
    ours = clipping.clipped_sum(task.objective, task.params, task.records, every, task.public, l2_norm_clip=0.1).value

    def loss(params, image, text):
        return task.objective.loss(params, (image, text, None), task.public)

    summed = theirs.clipped_grad(loss, l2_clip_norm=0.1, batch_argnums=(1, 2), keep_batch_dim=False)(task.params, task.records.images, task.records.texts)
    for side in ours:
        scale = np.abs(summed[side]["kernel"]).max()
        np.testing.assert_allclose(ours[side]["kernel"], summed[side]["kernel"], atol=3e-6 * scale)
