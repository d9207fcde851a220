"""Checks what a finished demo left behind: `python tests/check_demo.py WORKDIR` prints each claim and exits 1 on a false one.

The claims are those of the README: lift rises along the ladder, the signal survives label matching, noise lowers linkage, the
epsilon is the calibrated one, the probe is priced, and the page is self-contained.
"""

import itertools
import pathlib
import re
import sys
from typing import Any

from relink_jax.report import schema

LADDER = ("phantom-0-untrained", "phantom-1-labels", "phantom-2-reports", "phantom-3-specialist")
NOISE = ("noise_only", "noise_only_2", "noise_only_3", "noise_only_4", "noise_only_5")
SITES = ("phantom-A-test", "phantom-B-external")


def recall(document: dict[str, Any], stratum: str = "other_patient") -> dict[str, Any]:
    """Returns the Recall@1 entry of the largest pool that fits (not the full one)."""
    entries = [e for e in document["metrics"] if (e["name"], e["k"], e["direction"], e["stratum"], e["full"]) == ("recall", 1, "i2r", stratum, False)]
    return max(entries, key=lambda entry: entry["N"])


def under_attack(document: dict[str, Any], chosen: bool) -> dict[str, Any]:
    """Returns the Recall@1 entry of plain cosine, or of the attack that calibration patients chose, in the pool of `recall`."""
    attack = next(one for one in document["attacks"] if (one["selected"] if chosen else one["name"] == "cosine"))
    entries = [e for e in attack["metrics"] if e["stratum"] == "other_patient" and not e["full"]]
    return max(entries, key=lambda entry: entry["N"])


def claims(workdir: pathlib.Path) -> list[tuple[str, bool]]:
    """Returns (claim, holds) pairs."""
    found = {schema.stem(document): document for document in schema.load_results(workdir / "results")}
    wanted = {f"{model}__original__{site}" for model in LADDER for site in SITES} | {
        f"{LADDER[3]}__{arm}__{site}" for arm in ("random", "dp", *NOISE) for site in SITES
    }
    held = SITES[0]
    ladder = [recall(found[f"{model}__original__{held}"]) for model in LADDER]
    top = found[f"{LADDER[3]}__original__{held}"]
    matched, dp = recall(top, "label_matched"), found[f"{LADDER[3]}__dp__{held}"]
    random = found[f"{LADDER[3]}__random__{held}"]
    cosine, best = (under_attack(random, chosen) for chosen in (False, True))
    shuffled = [point["z"] for document in found.values() for point in document.get("null", {"points": []})["points"] if point["z"] is not None]
    page = (workdir / "report" / "index.html").read_text()
    links = re.findall(r"(?:src|href)=[\"'](?!data:|#|summary\.html)[^\"']+", page)
    return [
        (f"{len(wanted)} results files, one per model, arm and site", set(found) == wanted),
        (f"lift rises along the ladder: {[round(entry['lift'], 1) for entry in ladder]}", all(a["lift"] < b["lift"] for a, b in itertools.pairwise(ladder))),
        ("the untrained model's interval holds chance", ladder[0]["ci"]["low"] <= ladder[0]["chance"] <= ladder[0]["ci"]["high"]),
        ("the strongest model is above chance", ladder[3]["ci"]["low"] > ladder[3]["chance"]),
        (f"the signal survives label matching: lift {matched['lift']:.1f} at N={matched['N']}", matched["ci"]["low"] > matched["chance"]),
        ("DP heads link less than the original ones", recall(dp)["value"] < recall(top)["value"]),
        ("the ledger's epsilon is the calibrated 0.34", dp["model"]["dp"]["epsilon"] <= 0.34 + 1e-6 and dp["model"]["dp"]["delta"] == 6e-6),
        ("noise-only heads differ from draw to draw", len({recall(found[f"{LADDER[3]}__{arm}__{held}"])["value"] for arm in NOISE}) == len(NOISE)),
        (
            "every arm has a probe AUROC",
            all(found[name]["utility"]["probe"][1]["macro_auroc"] is not None for name in wanted if name.split("__")[1] not in NOISE[1:]),
        ),
        (
            "the cohort is marked synthetic in every file and on the page",
            all(document["data"]["synthetic"] for document in found.values()) and "ynthetic" in page,
        ),
        (
            f"random heads fool plain cosine and not the best attack: {cosine['value']:.3f} and {best['value']:.3f}",
            cosine["ci"]["low"] < 2 * cosine["chance"] and best["ci"]["low"] > 2 * cosine["value"] and "Plain cosine is fooled" in page,
        ),
        (f"shuffled reports link at chance: z {[round(z, 1) for z in shuffled]}", all(abs(z) < 4 for z in shuffled)),
        ("the summary for data governance is there", (workdir / "report" / "summary.html").exists()),
        ("the page loads nothing", not links and "<script" not in page and "default-src 'none'" in page.replace("&#39;", "'")),
    ]


if __name__ == "__main__":
    checked = claims(pathlib.Path(sys.argv[1]))
    for claim, holds in checked:
        print(("ok      " if holds else "FALSE   ") + claim)
    sys.exit(not all(holds for _, holds in checked))
