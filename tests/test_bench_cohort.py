"""`relink bench cohort`: both sides of every row read the same pixels, and the figures are of those."""

import json

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.cohort import images
from relink_jax.stages import bench_cohort


def test_rows_are_measured_and_told():
    measured = bench_cohort.measure(6, 32, 1, short_side=16)
    assert measured.pictures == 6
    assert [row.what for row in measured.rows] == [
        *("decode PNG", "decode JPEG", "read records", "read and decode records", "records of short side 16"),
    ]
    assert all(row.ratio == row.least == row.most == pytest.approx(row.ours_per_second / row.peer_per_second) for row in measured.rows)
    assert json.loads(json.dumps(measured.values()))["built_per_second"] > 0
    told = bench_cohort.table(measured)
    assert "6 pictures of 32 x 32" in told
    assert max(map(len, told.splitlines())) <= 160


def test_two_sides_that_differ_are_refused(monkeypatch):
    honest = images.read_image
    monkeypatch.setattr(images, "read_image", lambda *given, **named: honest(*given, **named) + np.float32(1e-3))
    with pytest.raises(errors.UnsoundError, match="decode PNG in bench cohort: expected what plain Pillow give"):
        bench_cohort.measure(4, 32, 1)
