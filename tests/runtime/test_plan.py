"""What a plan needs and whether it is there: bytes of memory and disk, and how a plan that does not fit is refused."""

import pytest

from relink_jax import errors
from relink_jax.runtime import plan, room

GIB = 2**30


def need(what, needed, available):
    return plan.Need(what, needed, available, "--config.audit.panel", "vectors")


@pytest.mark.parametrize(("needed", "available", "fits"), [(5, 5, True), (6, 5, False), (6, 0, True)])
def test_what_fits_is_at_most_what_is_there_where_that_is_told(needed, available, fits):
    one = need(plan.DEVICE, needed * GIB, available * GIB)
    assert one.fits is fits
    assert ("DOES NOT FIT: --config.audit.panel" in one.line().why) is not fits
    assert one.line().value == f"{needed}.0 GiB of " + (f"{available}.0 GiB" if available else "an unknown amount")


def test_a_plan_that_does_not_fit_says_what_and_what_to_change():
    fine, disk, memory = need(plan.HOST, 1, 2), need(plan.DISK, 3 * GIB, GIB), need(plan.DEVICE, 2 * GIB, GIB)
    plan.check({"embed": plan.Plan((), [fine])})
    with pytest.raises(
        errors.StoreError, match=r"too little disk in plan of embed: expected at most 1\.0 GiB, found 3\.0 GiB needed; change --config\.audit\.panel"
    ):
        plan.check({"embed": plan.Plan((), [fine, disk])})
    with pytest.raises(errors.UsageError, match=r"too little device memory in plan of audit.*and 1 more that do not fit"):
        plan.check({"embed": plan.Plan((), [disk]), "audit": plan.Plan((), [memory])})
    assert plan.Plan([plan.Line("a", "1", "why")], [memory]).table().splitlines()[1].startswith("  needs device memory  2.0 GiB of 1.0 GiB")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * 1024),
        ({"cgroup/a/b/memory.max": "max\n"}, 8000 * 1024),
        ({"cgroup/a/memory.max": "3000000\n", "cgroup/a/memory.current": "1000000", "cgroup/a/memory.stat": "anon 1\ninactive_file 400000\n"}, 2_400_000),
        ({"cgroup/a/b/memory.max": "9000000000", "cgroup/a/b/memory.current": "1"}, 8000 * 1024),
        ({"cgroup/a/b/memory.max": "1000", "cgroup/a/b/memory.current": "5000"}, 1),
    ],
)
def test_memory_is_the_systems_or_what_the_control_group_leaves(tmp_path, files, expected):
    for name, text in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", "proc/self/cgroup": "0::/a/b\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert room.memory(tmp_path / "proc", tmp_path / "cgroup") == expected


def test_memory_of_an_older_control_group_and_of_none(tmp_path):
    group = tmp_path / "cgroup" / "memory" / "job_7"
    group.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:cpu:/\n3:memory:/job_7\n")
    (group / "memory.limit_in_bytes").write_text("500000")
    (group / "memory.usage_in_bytes").write_text("100000")
    (group.parent / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert room.memory(tmp_path / "proc", tmp_path / "cgroup") == 400_000
    assert room.memory(tmp_path / "nowhere", tmp_path / "nowhere") == 0


def test_disk_is_that_of_the_nearest_directory_that_exists(tmp_path):
    assert room.disk(tmp_path / "not" / "yet") == pytest.approx(room.disk(tmp_path), rel=0.05)
    assert room.disk("") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "y").write_bytes(b"123")
    assert room.held([tmp_path / "a", tmp_path / "none"]) == 8
