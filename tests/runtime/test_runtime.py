"""Meshes, plans and progress."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import pytest

import relink_jax
from relink_jax import errors
from relink_jax.runtime import mesh, plan, progress, provenance


def test_mesh_uses_the_devices_asked_for_with_explicit_axis_types():
    found = mesh.make_mesh(4)
    assert found.shape == {"data": 4}
    assert found.axis_types == (jax.sharding.AxisType.Auto,)
    with pytest.raises(errors.UsageError, match="1 to 8 devices, found 9"):
        mesh.make_mesh(9)


def test_padded_is_the_least_multiple():
    for n in range(0, 40):
        got = mesh.padded(n, 8)
        assert got % 8 == 0
        assert got >= max(n, 1)
        assert got - 8 < max(n, 1)


def test_plan_states_flops_by_formula():
    placed = plan.Counting(256, 128, 0, "images", 1, 3000, 200, 100)
    lines = {line.what: line.value for line in plan.audit_plan(1000, 500, 64, placed)}
    assert lines["arithmetic"] == "64.0 MFLOP"
    assert lines["tiles"] == "16"
    assert lines["memory per device"] == "3.2 KiB"
    compiled = {line.what: line.value for line in plan.audit_plan(1000, 500, 64, dataclasses.replace(placed, compiled=4096))}
    assert (compiled["memory per device"], compiled["memory by formula"]) == ("4.0 KiB", "3.2 KiB")
    assert plan.human(3 * 1024**2, "B") == "3.0 MiB"
    assert plan.human(12, "B") == "12 B"


def test_bar_counts_and_is_silent_when_asked(capsys):
    assert list(progress.track(range(3), 3, "test")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_results_name_the_commit_of_a_checkout_and_say_so_when_there_is_none(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org", *words], check=True, capture_output=True)

    package = tmp_path / "relink_jax" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(relink_jax, "__file__", str(package))
    assert provenance.commit() == "not a checkout"
    git("init")
    git("add", "-A")
    git("commit", "-m", "first")
    head = pathlib.Path(tmp_path / ".git" / "logs" / "HEAD").read_text().split()[1]
    assert provenance.commit() == head[:12]
    package.write_text("changed")
    assert provenance.commit() == f"{head[:12]}-dirty"


@pytest.mark.parametrize(("flags", "before", "count"), [("", "", 2), ("", "jax.devices()", 1), ("--xla_force_host_platform_device_count=3", "", 3)])
def test_the_cpu_is_shared_by_two_devices_unless_they_are_counted_already(flags, before, count):
    code = f"import jax; {before or 'pass'}; from relink_jax.runtime import mesh; mesh.share_cpu(); print(mesh.make_mesh().size)"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert int(told) == (count if len(os.sched_getaffinity(0)) > 1 or flags else 1)
