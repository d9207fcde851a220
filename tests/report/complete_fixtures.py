"""The imagined run of `report_fixtures` with every section an audit can have, by formula; and one whose mitigation only fools plain cosine."""

import math

import numpy as np
import report_fixtures
from report_fixtures import ARMS, DATASETS, FULL, LADDER, POOLS, interval, metric, probe, recall_at_1

HEADLINE = 1000
PAIRS = (100, 1000, 3000)
STRATA = (("label_quaternary", 0.5, 0.31), ("label_u_one", 0.57, 0.4), ("label_u_zero", 0.58, 0.44), ("view", 0.97, 1.0), ("label_view", 0.53, 0.22))
STRATA += (("sex_age", 0.9, 0.6), ("length", 0.8, 0.99), ("near_text", 0.6, 0.5), ("device_maker", 0.92, 0.8))
GAINS = {"znorm": 1.03, "csls": 1.07, "inverted_softmax": 1.1, "sinkhorn": 1.08, "study_mean": 1.05}
ZERO_SHOT = {"original": 0.741, "dp": 0.563, "noise_only": 0.559, "random": 0.502}
SIZES = [(pool, False) for pool in POOLS] + [(FULL, True)]


def e(value, share=0.08, queries=1311):
    return {"value": value, "ci": None if value is None else interval(value, share, 0.0, 1.0), "n_queries": queries, "n_patients": 291}


def recalls(separation):
    entries = [metric("recall", recall_at_1(separation, pool), 1 / pool, k=1, pool=pool, full=full) for pool, full in SIZES]
    matched = {"k": 1, "stratum": "label_matched", "share": 0.38, "queries": 498}
    return entries + [metric("recall", recall_at_1(0.55 * separation, pool), 1 / pool, pool=pool, **matched) for pool in (10, 100)]


def attack(name, family, separation, cosine, passes=1.0, *, pairs=None, features="embeddings", bank=None, params=None, hubness=None):
    gains = []
    for mine, theirs in zip(recalls(separation), recalls(cosine), strict=True):
        change, ratio = mine["value"] - theirs["value"], mine["value"] / theirs["value"]
        bits = {"value": -math.log2(ratio), "low": -math.log2(1.05 * ratio), "high": -math.log2(0.95 * ratio)}
        reference = {key: mine[key] for key in ("name", "k", "N", "full", "direction", "stratum")}
        ci = {"method": "patient_bca", "level": 0.95, "low": change - 0.004, "high": change + 0.004, "B": 2000}
        gains.append(
            {
                "metric_ref": reference,
                "difference": change,
                "ci": ci,
                "ratio": {"value": ratio, "low": 0.95 * ratio, "high": 1.05 * ratio},
                "bits_removed": bits,
            }
        )
    return {
        "name": name, "family": family, "bank": bank, "pairs": pairs, "features": features, "params": params or {}, "passes": passes,
        "released": features == "embeddings" and family != "baseline", "selected": False, "calibration": {"mrr": recall_at_1(separation, 100), "n_queries": 300,
        "n_patients": 80}, "metrics": recalls(separation), "gain": [] if name == "cosine" else gains, "hubness": hubness,
    }  # fmt: skip


def attacks(separation, whole, restored=0.0, released=None):
    """Returns every attack's entry: `whole` is the separation before any head, `restored` how much of it a map on embeddings gives back,
    `released` the separation that inverted softmax finds where it is not a little above plain cosine."""
    hubs = {"n10_skew": 2.1 if released is None else 9.4, "max_n1": 14 if released is None else 411, "k": 10}
    found = [attack("cosine", "raw", separation, separation, 0.0, hubness=hubs)]
    for name, gain in GAINS.items():
        family = "assignment" if name == "sinkhorn" else "fusion" if name == "study_mean" else "normalisation"
        reached = released if released is not None and name == "inverted_softmax" else gain * separation
        params = {"beta": 40.0} if name in ("inverted_softmax", "sinkhorn") else {"k": 10} if name == "csls" else {}
        bank = "inductive" if family == "normalisation" else None
        found.append(attack(name, family, reached, separation, 20.0 if name == "sinkhorn" else 1.0, bank=bank, params=params, hubness=hubs | {"max_n1": 9}))
    for place, pairs in enumerate(PAIRS):
        share = (0.3, 0.7, 1.0)[place]
        for name, factor in (("ridge", 1.0), ("cca", 0.9)):
            reached = max(separation * (0.6 + 0.4 * share), factor * share * restored * whole)
            found.append(attack(name, "realignment", reached, separation, 1.0, pairs=pairs, params={"ridge": 0.1}))
        found.append(attack("fresh_head", "realignment", (0.45 + 0.4 * share) * whole, separation, 2.0, pairs=pairs, features="before_head"))
    found += [attack("label_only", "baseline", 0.6, separation, 0.0), attack("length_only", "baseline", 0.12, separation, 0.0)]
    best = max((one for one in found if one["released"]), key=lambda one: one["calibration"]["mrr"])
    best["selected"] = True
    return found


def curve(name, separation):
    points = []
    for pool in (2, 5, 10, 30, 100, 300, 1000, FULL):
        value = recall_at_1(separation, pool)
        ends = {"low": 0.92 * value, "high": min(1, 1.08 * value), "band_low": 0.88 * value, "band_high": min(1, 1.12 * value)}
        ends = ends if name != "label_only" else {"low": None, "high": None, "band_low": None, "band_high": None}
        points.append({"N": pool, "full": pool == FULL, "value": value, "chance": 1 / pool, **ends})
    return {"attack": name, "level": 0.95, "points": points}


def strata(separation):
    entries = []
    for name, share, eligible in STRATA:
        pool = 1000 if eligible > 0.9 else 100 if eligible > 0.3 else 10
        about = {"k": 1, "pool": pool, "share": eligible, "queries": round(eligible * 1311)}
        entries += [metric("recall", recall_at_1(share * separation, pool), 1 / pool, stratum=name, **about)]
        entries += [metric("recall", recall_at_1(0.98 * separation, pool), 1 / pool, stratum=f"other_patient@{name}", **about)]
    return entries


def risk(separation):
    """Returns concentration at the headline pool and the full database, for a beta-like spread of risk around the mean."""
    entries = []
    for name, shift in (("cosine", 1.0), ("best", 1.1)):
        for pool, full in ((HEADLINE, False), (FULL, True)):
            mean = recall_at_1(shift * separation, pool)
            records = np.linspace(0, 1, 21)
            power = 1 + 6 * (1 - mean)
            hits = records**power
            entries.append({
                "N": pool, "full": full, "attack": name, "quantiles": {"0.5": mean**2, "0.9": math.sqrt(mean), "0.99": mean**0.2, "1": mean**0.1},
                "share_ge_009": e(mean**0.7), "share_ge_050": e(mean**1.3), "top1pct_share": float(1 - 0.99**power), "top10pct_share": float(1 - 0.9**power),
                "patients_top1pct_share": float(1 - 0.99**power), "patients_top10pct_share": float(1 - 0.9**power), "gini": float(1 - 2 / (power + 1)),
                "lorenz": {"records": records.tolist(), "hits": hits.tolist()},
            })  # fmt: skip
    return entries


def groups(separation):
    mean, rows = recall_at_1(separation, HEADLINE), []
    for attribute, names in (("view", ("AP", "PA", "lateral")), ("sex", ("F", "M")), ("age", ("under 40", "40 to 60", "over 60"))):
        for place, name in enumerate(names):
            value = mean * (0.8 + 0.25 * place)
            rows.append({"attribute": attribute, "group": name, "n_queries": 300 + 40 * place, "n_patients": 90 + 7 * place, "value": min(1, value),
                         "ci": interval(min(1, value), 0.2, 0, 1), "shrunken": min(1, 0.7 * value + 0.3 * mean), "p": 0.02 * (place + 1), "p_adjusted": 0.05 * (place + 1)})  # fmt: skip
    return {"N": HEADLINE, "full": False, "rows": rows, "suppressed": 2, "fewest_patients": 10}


def certainty(separation):
    mean = recall_at_1(1.1 * separation, HEADLINE)
    line = [{"coverage": c, "precision": min(1, mean ** (0.35 + 0.65 * c)), "low": 0.9 * mean ** (0.35 + 0.65 * c), "high": min(1, 1.05 * mean ** (0.35 + 0.65 * c))}
            for c in np.geomspace(0.002, 1, 40).tolist()]  # fmt: skip
    at = [{"coverage": c, "precision": e(min(1, mean ** (0.35 + 0.65 * c)), 0.1)} for c in (0.01, 0.1)]
    reached = [{"precision": 0.5, "coverage": e(min(1, mean**0.5))}, {"precision": 0.9, "coverage": e(min(1, mean**0.9))}]
    selective = {"confidence": "margin", "N": HEADLINE, "curve": line, "at_coverage": at, "coverage_at_precision": reached, "chance": 1 / HEADLINE}
    fpirs = np.geomspace(1e-3, 1, 31).tolist()
    tpir = [mean * f ** (1.1 - mean) for f in fpirs]
    points = [{"fpir": f, "tpir": e(mean * f ** (1.1 - mean)), "threshold": 0.5, "resolved": f > 0.0076} for f in (0.1, 0.01, 0.001)]
    open_set = {"N": HEADLINE, "points": points, "curve": [{"fpir": f, "tpir": t} for f, t in zip(fpirs, tpir, strict=True)], "resolution": 0.0076}
    ppv = [(f, mean * f**0.3) for f in (1e-2, 1e-3, 1e-4)]
    verification = {
        "definition": "conservative", "auc_pooled": 0.5 + 0.45 * mean**0.2, "n_impostors": 1_536_000, "n_true": 1311,
        "points": [{"fpr": f, "tpr": e(t), "threshold": 0.6, "ppv": [{"N": n, "value": t / (t + (n - 1) * f)} for n in (100, 1000)], "resolved": f > 1e-5} for f, t in ppv],
    }  # fmt: skip
    return {"selective": selective | {"n_queries": 1311, "n_patients": 291}, "open_set": open_set, "verification": verification}


def right_patient(separation):
    entries = []
    for pool, full in ((HEADLINE, False), (FULL, True)):
        right = recall_at_1(separation, pool)
        other = 0.15 * (1 - right) * right**0.5
        entries.append({"N": pool, "full": full, "right_study": e(right), "right_patient": e(other), "wrong_patient": e(1 - right - other),
                        "chance_study": 1 / pool, "chance_patient": 3.1 / pool})  # fmt: skip
    return entries


def extend(document, separation, whole, restored, released=None):
    """Adds every section to `document`."""
    document["attacks"] = attacks(separation, whole, restored, released)
    best = next(one for one in document["attacks"] if one["selected"])
    reached = {entry["N"]: entry["value"] for entry in best["metrics"] if entry["stratum"] == "other_patient"}
    grid = np.linspace(0.02, 5, 100)
    strength = min(grid, key=lambda d: abs(recall_at_1(float(d), 1000) - reached[1000]))
    document["curve"] = [curve("cosine", separation), curve("best", float(strength)), curve("label_only", 0.6)]
    document["metrics"] += strata(separation)
    for entry in document["metrics"]:
        if entry["name"] == "recall" and entry["stratum"] == "other_patient" and entry["direction"] == "i2r":
            entry["ci_two_sided"] = {
                "method": "two_sided_jackknife",
                "level": 0.95,
                "low": 0.85 * entry["value"],
                "high": min(1, 1.15 * entry["value"]),
                "se": 0.01,
                "blocks": 32,
            }
    points = [{"N": n, "full": n == FULL, "value": 1.04 / n, "chance": 1 / n, "z": 0.6, "n_queries": 498} for n in (10, 100)]
    document |= {
        "null": {"name": "shuffle", "stratum": "label_matched", "points": points},
        "right_patient": right_patient(separation),
        "risk": risk(separation),
    }
    document |= {"groups": groups(separation), **certainty(separation)}
    terms = [
        {"name": n, "odds_ratio": r, "low": 0.8 * r, "high": 1.25 * r, "p": 0.01, "p_adjusted": 0.03}
        for n, r in (("Support Devices", 1.7), ("report length", 1.3))
    ]
    document["regression"] = {"N": HEADLINE, "full": False, "terms": terms, "n_queries": 1311, "n_patients": 291, "left_out": ["Pleural Other"]}
    sets = {"median": 1, "p99": 6, "max": 41}
    document["anonymity"] = {"by_score": {"unique_share": 0.86, **sets}, "by_text": {"unique_share": 0.88, **sets}}
    document["bits"] = {
        "infonce": {"value": 1.4 * separation, "ci": interval(1.4 * separation, 0.1), "beta": 20.0, "N": FULL, "n_queries": 1311, "n_patients": 291},
        "rank_corrected": {"value": 1.6 * separation, "ci": interval(1.6 * separation, 0.1), "N": FULL, "chance": 1.438, "n_queries": 1311, "n_patients": 291},
    }
    document["matched"] = [{"stratum": "label_matched", "N": 100, "full": False, "retained_share": {"value": 0.55, "low": 0.5, "high": 0.61}, "label_only": 0.094,
                            "bits_labels": 3.2, "bits_beyond": 2.6}]  # fmt: skip
    document["tiered"] = [{"N": 1000, "k": 1, "value": e(recall_at_1(0.5 * separation, 1000)), "chance": 0.001, "filled_share": 0.72,
                           "tiers": "same labels, then Jaccard >= 0.5, then any"}]  # fmt: skip
    seen = [(n, round(s * FULL), recall_at_1(f * separation, HEADLINE)) for n, s, f in (("seen", 0.3, 1.15), ("unseen", 0.7, 0.95))]
    document["data"]["exposure"] = {name: count for name, count, _ in seen}
    document["by_exposure"] = [metric("recall", value, 1 / HEADLINE, k=1, pool=HEADLINE, queries=count) | {"exposure": name} for name, count, value in seen]


def utility(document, original):
    head = document["model"]["head"]
    macro = ZERO_SHOT[head] - 0.02 * document["data"]["external"] - 0.05 * (3 - document["model"]["specialisation"])
    entries = document["utility"]
    entries["zero_shot"] = [probe(head, max(macro, 0.45))]
    entries["report_probe"] = [probe(head, 0.9)]
    entries["label_retrieval"] = {"precision_at_10": e(0.31), "ndcg_at_10": e(0.42), "chance": 0.12}
    for entry in entries.get("paired", []):
        loss = abs(entry["difference"])
        entry["task"] = "probe"
        entry["equivalence"] = {
            "margin": 0.01,
            "equivalent": loss < 0.01,
            "level": 0.9,
            "low": entry["difference"] - 0.003,
            "high": entry["difference"] + 0.003,
        }
    if original is not None:
        change = entries["zero_shot"][0]["macro_auroc"] - original["utility"]["zero_shot"][0]["macro_auroc"]
        ci = interval(change, 0.5) | {"low": change - 0.02, "high": change + 0.02}
        entries["paired"].append({"task": "zero_shot", "features": head, "against": "original", "difference": change, "ci": ci})


def paired_best(document, other):
    entries = []
    mine, theirs = (
        {m["N"]: m for m in next(a for a in one["attacks"] if a["selected"])["metrics"] if m["stratum"] == "other_patient"} for one in (document, other)
    )
    for pool, entry in mine.items():
        difference, kept = entry["value"] - theirs[pool]["value"], entry["value"] / theirs[pool]["value"]
        against = "__".join((other["model"]["name"], other["model"]["head"], other["data"]["name"]))
        forms = {"reduction": {"value": 1 - kept, "low": 1 - 1.1 * kept, "high": 1 - 0.9 * kept}}
        forms["bits_removed"] = {"value": -math.log2(kept), "low": -math.log2(1.1 * kept), "high": -math.log2(0.9 * kept)}
        ci = {"method": "patient_bca", "level": 0.95, "low": difference - 0.006, "high": difference + 0.006, "B": 2000}
        reference = {key: entry[key] for key in ("name", "k", "N", "full", "direction", "stratum")}
        entries.append({"against": against, "attack": "best", "metric_ref": reference, "difference": difference, "ci": ci, **forms})
    return entries


def results(released=None, restored=0.0):
    """Returns the 14 documents complete. `released`: separation that inverted softmax finds in the DP heads' embeddings, where plain cosine
    finds none; `restored`: share of the original linkage that a ridge map gives back of them."""
    separations = {(model, "original"): separation for model, separation, _ in LADDER} | {(LADDER[-1][0], head): separation for head, separation, _ in ARMS}
    planted = released is not None or restored
    documents = report_fixtures.results()
    for name, _, factor in DATASETS:
        mine = [one for one in documents if one["data"]["name"] == name]
        for one in mine:
            key = one["model"]["name"], one["model"]["head"]
            separation = factor * (0.02 if planted and key[1] == "dp" else separations[key])
            if planted and key[1] == "dp":
                one["metrics"] = report_fixtures.metrics(separation)
            back = restored if key[1] == "dp" else 1.0 if key[1] == "random" else 0.3
            whole = factor * separations[LADDER[-1][0], "original"] if key[0] == LADDER[-1][0] else separation
            extend(one, separation, whole, back, factor * released if released is not None and key[1] == "dp" else None)
        original = next(one for one in mine if one["model"]["name"] == LADDER[-1][0] and one["model"]["head"] == "original")
        for one in [original, *[one for one in mine if one is not original]]:
            arm = one["model"]["head"] != "original"
            utility(one, original if arm else None)
            if arm:
                one["paired"] = report_fixtures.paired(one, original) + paired_best(one, original)
    return documents


def comparisons(documents):
    """Returns results/comparisons.json of `documents`."""
    entries = []
    for name, _, _ in DATASETS:
        ladder = [one for one in documents if one["data"]["name"] == name and one["model"]["head"] == "original"]
        found = [
            next(m["value"] for m in one["metrics"] if (m["name"], m["k"], m["N"], m["stratum"]) == ("recall", 1, HEADLINE, "other_patient")) for one in ladder
        ]
        names = [one["model"]["name"] for one in ladder]
        steps = [
            {"lower": a, "upper": b, "difference": y - x, "low": y - x - 0.003, "high": y - x + 0.003}
            for a, b, x, y in zip(names, names[1:], found, found[1:], strict=False)
        ]
        order = {"N": HEADLINE, "full": False, "attack": "cosine", "models": names, "values": found, "adjacent": steps, "share_of_resamples_in_order": 0.997}
        entries.append({"dataset": name, "order": order | {"level": 0.95, "B": 2000}})
    return {"schema_version": "1.0", "datasets": entries}
