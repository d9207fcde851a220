"""`relink bench attacks`: every attack has its row, and what cannot be tried is named."""

import json

import pytest

from relink_jax import cli
from relink_jax.audit import holdings


@pytest.mark.slow
def test_every_attack_has_a_row(tmp_path, capsys):
    flags = ["--candidates=60", "--dim=8", "--pairs=40", "--rounds=1", f"--json={tmp_path / 'costs.json'}"]
    assert cli.main(["bench", "attacks", *flags]) == 0
    values = json.loads((tmp_path / "costs.json").read_text())
    assert {row["attack"].split(".")[0] for row in values["rows"]} == set(holdings.NAMES)
    assert all(row["least"] <= row["multiple"] <= row["most"] for row in values["rows"])
    assert "in counting passes" in capsys.readouterr().out
