"""Meshes, plans and progress."""

import jax
import pytest

from relink_jax import errors
from relink_jax.runtime import mesh, plan, progress


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
    lines = {line.what: line.value for line in plan.audit_plan(1000, 500, 64, 256, 128, 1)}
    assert lines["arithmetic"] == "64.0 MFLOP"
    assert lines["tiles"] == "16"
    assert plan.human(3 * 1024**2, "B") == "3.0 MiB"
    assert plan.human(12, "B") == "12 B"


def test_bar_counts_and_is_silent_when_asked(capsys):
    assert list(progress.track(range(3), 3, "test")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
