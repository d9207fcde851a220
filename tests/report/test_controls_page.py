"""The page of controls: self-contained, escaped, says every condition, and says nothing that its numbers do not."""

import re

from relink_jax.report import controls_figure, controls_page, controls_table
from relink_jax.store import digests

RECALL = {"original": 0.9, "noise_only_1": 0.6, "noise_only_3": 0.8, "dp_1": 0.5, "dp_3": 0.85, "unsound_1": 0.5, "rotation": 0.01, "pca_0.5": 0.88}


def measure(mean, sd=None):
    return {"mean": mean, "sd": sd, "n": 0 if mean is None else 1 if sd is None else 3}


def condition(name, raw, probe):
    family = {"original": "baseline", "rotation": "broken", "pca_0.5": "reduction"}.get(name, name.rsplit("_", 1)[0])
    random = family not in ("baseline", "reduction")
    epsilon = {"rdp": 1.0, "pld": 0.9, "infinite": False} if family == "dp" else {"rdp": None, "pld": None, "infinite": True} if family == "unsound" else None
    return {
        "id": name, "control": 0, "family": family, "label": "<b>of & words</b>", "unit": "", "random": random, "draws": 3 if random else 1,
        "target_epsilon": float(name.rsplit("_", 1)[1]) if family in ("dp", "noise_only", "unsound") else 0.0, "epsilon": epsilon, "pairs_left_out": 0,
        **{one: measure(raw, 0.02 if random else None) for one in ("raw", "refit")},
        **{f"{one}_lost": measure(0.9 - raw, 0.02 if random else None) for one in ("raw", "refit")},
        **{f"gap_{one}": measure(0.05) for one in ("raw", "refit")},
        "zero_shot": measure(0.8), "zero_shot_lost": measure(0.1 * (0.9 - raw)), "probe": measure(probe), "probe_lost": measure(None if probe is None else 0.8 - probe),
    }  # fmt: skip


def document(probe=0.79):
    shares = [
        {"id": "dp_1", "epsilon": 1.0, "measure": "raw", "share": 0.75, "fall": 0.4, "draws": 3, "low": 0.7, "high": 0.8, "sd": 0.05},
        {"id": "dp_1", "epsilon": 1.0, "measure": "refit", "share": None, "fall": 0.004, "draws": 0, "low": None, "high": None, "sd": None},
    ]
    ladders = [{"family": "dp", "measure": "raw", "epsilons": [1.0, 3.0], "monotone": False, "within_noise": True}]
    return digests.sealed(
        {
            "run": {"id": "abc", "git_commit": "none"}, "model": "mine", "set": "A-test", "synthetic": True, "mechanism": {"target_epsilon": 1.0},
            "expected_batch_size": 8, "pool": 100, "chance": 0.01, "seeds": 3, "probe_seeds": 1,
            "sizes": {"held-out images": 50, "held-out patients": 20, "training pairs": 60, "training units": 30, "pairs of the re-fit attacker": 25},
            "conditions": [condition(name, raw, probe) for name, raw in RECALL.items()], "explained": shares, "monotone": ladders,
        }
    )  # fmt: skip


def test_the_page_is_whole_escaped_and_loads_nothing(tmp_path):
    path = controls_page.render(document(), tmp_path / "report")
    html = path.read_text()
    assert all(f">{name}<" in html for name in RECALL)
    assert "<b>of" not in html
    assert "&lt;b&gt;of &amp; words" in html
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    assert "<script" not in html
    assert html.count("Synthetic data.") == 1
    assert "Nothing here is released" in html
    assert (tmp_path / "report" / "controls.png").read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_mode & 0o077 == 0


def test_the_figure_is_the_same_every_time_and_draws_every_condition():
    both = document()
    once = controls_figure.png(both)
    assert once == controls_figure.png(both)
    lacking = document(probe=None)
    lacking["conditions"] = [one for one in lacking["conditions"] if one["id"] != "rotation"]
    fewer = controls_figure.png(lacking)
    assert fewer.startswith(b"\x89PNG")
    assert fewer != once
    assert (len(controls_figure.panels(both)), len(controls_figure.panels(lacking))) == (4, 2)


def test_sentences_follow_the_numbers():
    said = " ".join(controls_table.statements(document()))
    assert (
        "At epsilon 1 noise alone, which reads no record, reproduces 75% of the fall in linkage by plain cosine (3 draws; over draws 70% to 80%, sd 5%)."
        in said
    )
    assert "At epsilon 1 linkage by re-fit attacker changed by -0.4 percentage points, less than 1 point down or no more than draws scatter" in said
    assert "does not rise with epsilon throughout, by no more than the draws scatter (epsilon 1, 3)" in said
    changed = document()
    changed["monotone"][0] |= {"monotone": True}
    assert "rises with epsilon throughout (epsilon 1, 3)" in " ".join(controls_table.statements(changed))


def test_the_table_says_epsilon_infinite_chance_and_what_is_missing():
    rows = {row.id: row.cells for row in controls_table.rows(document(probe=None))}
    assert rows["unsound_1"][0] == "\N{INFINITY}"
    assert rows["dp_1"][0] == "1 | 0.9"
    assert rows["rotation"][0] == "-"
    assert rows["chance"][1] == "1.0%"
    assert rows["original"][5] == "-"
    assert rows["dp_1"][1] == "50.0% \N{PLUS-MINUS SIGN} 2.0%"
    text = controls_table.text(document())
    assert all(name in text for name in RECALL)
    assert "<b>" in text
