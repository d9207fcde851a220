"""The page on attacks: its example runs as it stands there, and its table has every attack."""

import pathlib
import re

import attacked
import numpy as np
import pytest

from relink_jax.audit.attacks import base, cosine, listing

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "attacks.md").read_text()

pytestmark = pytest.mark.usefixtures("quick_module")


def test_the_example_runs_and_undoes_what_reports_add():
    audited = attacked.planted(5, hub=0.6)
    shown = {"target": attacked.target(audited, attacked.planted(6, hub=0.6)), "__name__": "page"}
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code) == 2
    for part in code:
        exec(part, shown)
    assert [one.name for one in shown["chosen"].attacks] == ["cosine", "znorm", "znorm", "csls", "csls", "centred"]
    assert shown["chosen"].attacks[-1].strength == 1
    assert shown["chosen"].selected != 0
    plain, found = (attacked.recall(space, audited).mean() for space in (cosine.Cosine().space(shown["target"]), shown["space"]))
    assert found > plain + 0.2
    centred = shown["Centred"]()
    scores, bank = (np.asarray(rows, float) @ audited.texts.T.astype(float) for rows in (audited.images, shown["target"].auxiliary.images))
    np.testing.assert_allclose(attacked.scores(centred.space(shown["target"])), scores - bank.mean(axis=0), atol=1e-6)
    assert centred.family == base.NORMALISATION


def test_the_table_has_every_attack():
    rows = re.findall(r"^\| (`[^|]*) \| (\w+) \|", PAGE, re.MULTILINE)
    named = {name: family for names, family in rows for name in re.findall(r"`(\w+)`", names)}
    for attack in listing.every():
        assert named[attack.name] == attack.family
    assert named["cosine"] == "raw"
