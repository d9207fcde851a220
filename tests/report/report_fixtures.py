"""Results files of an imagined run, by formula: binormal scores with one separation per model, as the real stages would write them."""

import copy
import functools
import json
import math

import numpy as np
from scipy import special, stats

from relink_jax.store import digests

POOLS = (10, 100, 1000)
FULL = 1174
LABELS = ("No Finding", "Cardiomegaly", "Lung Opacity", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Fracture")
LADDER = (("phantom-0-untrained", 0.05, 0.585), ("phantom-1-labels", 0.9, 0.792), ("phantom-2-reports", 2.2, 0.801), ("phantom-3-specialist", 3.3, 0.806))
ARMS = (("dp", 0.75, 0.798), ("noise_only", 0.72, 0.797), ("random", 0.02, 0.784))
DATASETS = (("phantom-A-test", False, 1.0), ("phantom-B-external", True, 0.7))
DP = {"epsilon": 0.34, "delta": 6e-6, "accountant": "rdp", "unit": "patient"}
_GRID = np.linspace(-9, 12, 4001)
_BELOW = special.log_ndtr(_GRID)


@functools.cache
def recall_at_1(separation, pool):
    """Returns the chance that a N(separation, 1) score beats pool - 1 standard normal ones."""
    density = np.exp(-((_GRID - separation) ** 2) / 2 + (pool - 1) * _BELOW) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(density, _GRID))


def interval(value, share, low=-math.inf, high=math.inf):
    width = share * max(abs(value), 1e-4)
    return {"method": "patient_bootstrap", "level": 0.95, "low": max(low, value - width), "high": min(high, value + width), "B": 2000, "se": width / 1.96}


def metric(name, value, chance, *, k=None, pool=None, full=False, direction="i2r", stratum="other_patient", share=1.0, queries=1311):
    lift = value / chance if name == "recall" else None
    ci = interval(value, 0.08, 0.0, 1.0)
    ci |= {f"lift_{end}": ci[end] / chance if name == "recall" else None for end in ("low", "high")}
    return {
        "name": name, "k": k, "N": pool, "full": full, "direction": direction, "stratum": stratum, "value": value, "chance": chance, "lift": lift,
        "log2_lift": math.log2(lift) if lift else None, "optimistic": min(1.0, value * 1.02), "pessimistic": value * 0.97, "n_queries": queries,
        "n_eligible_share": share, "n_patients": 291, "ci": ci, "mc_check": None,
    }  # fmt: skip


def metrics(separation):
    entries = []
    for direction, shift in (("i2r", 0.0), ("r2i", -0.05)):
        d = separation + shift
        for pool in (*POOLS, FULL):
            entries += [metric("recall", recall_at_1(d, pool), 1 / pool, k=1, pool=pool, full=pool == FULL, direction=direction)]
            entries += [metric("recall", min(1.0, 3 * recall_at_1(d, pool)), min(1.0, 5 / pool), k=5, pool=pool, full=pool == FULL, direction=direction)]
        entries += [metric("auc_within_query", float(stats.norm.cdf(d / math.sqrt(2))), 0.5, pool=None, direction=direction)]
        for pool, share in ((10, 0.71), (100, 0.38)):
            matched = {"k": 1, "pool": pool, "direction": direction, "share": share, "queries": round(share * 1311)}
            entries += [metric("recall", recall_at_1(0.55 * d, pool), 1 / pool, stratum="label_matched", **matched)]
            entries += [metric("recall", recall_at_1(0.9 * d, pool), 1 / pool, stratum="other_patient@label_matched", **matched)]
    return entries


def probe(features, macro):
    per_label = {name: min(1.0, macro + 0.04 * math.sin(3 * index)) for index, name in enumerate(LABELS)} | {"Pleural Other": None}
    ci = interval(macro, 0.02, 0, 1) | {"B": 500}
    return {
        "features": features,
        "macro_auroc": macro,
        "ci": ci,
        "per_label": per_label,
        "undefined": ["Pleural Other"],
        "l2": dict.fromkeys(LABELS, 0.01),
        "chance": 0.5,
    }


def result(model, rung, head, dataset, external, separation, macro):
    arm_probe = [probe("pre_head", 0.811 if rung else 0.8), probe(head, macro)]
    document = {
        "schema_version": "1.0",
        "run": {"id": "0f3a5c7e9b12", "created_utc": "2030-01-02T03:04:05+00:00", "seed": 0, "precision": "float32/highest", "relink_jax": "0.1.0"},
        "data": {
            "name": dataset, "synthetic": True, "external": external, "text_field": "findings+impression", "n_images": 1311, "n_studies": FULL, "n_unique_texts": 1012,
            "n_patients": 291, "exposure": {"pretrain_train": 0, "pretrain_test": 0, "unknown": FULL},
        },
        "model": {"name": model, "head": head, "dp": DP if head == "dp" else None, "weights_sha256": "ab" * 32, "specialisation": rung},
        "protocol": {"same_patient": "exclude", "ties": "expected", "truth": "study", "label_policy": "ternary", "pool": "closed_form", "attack": {"name": "cosine"}},
        "counts": {"i2r": {"other_patient": {"n_queries": 1311, "M": {"min": 1160, "median": 1171, "max": 1173}, "tied_queries": 188}}},
        "metrics": metrics(separation),
        "utility": {"probe": arm_probe},
        "checks": {"tie_sensitivity": {"delta": 1e-6, "recall1_lo": 0.1, "recall1_hi": 0.1}},
        "files": {"per_query": {"name": "x.parquet", "sha256": "cd" * 32}},
        "warnings": ["probe of Pleural Other: undefined, one class only in validate"],
    }  # fmt: skip
    return document


def paired(document, other):
    """Returns paired entries of `document` minus `other` for every image-to-report recall of the other-patient stratum."""
    entries = []
    for mine, theirs in zip(document["metrics"], other["metrics"], strict=True):
        if mine["name"] == "recall" and mine["direction"] == "i2r" and mine["stratum"] == "other_patient":
            difference = mine["value"] - theirs["value"]
            reference = {name: mine[name] for name in ("name", "k", "N", "full", "direction", "stratum")}
            against = "__".join((other["model"]["name"], other["model"]["head"], other["data"]["name"]))
            ci = {"method": "patient_bca", "level": 0.95, "low": difference - 0.006, "high": difference + 0.006, "B": 2000}
            kept = mine["value"] / theirs["value"]
            forms = {
                "reduction": {"value": 1 - kept, "low": 1 - 1.1 * kept, "high": 1 - 0.9 * kept},
                "bits_removed": {"value": -math.log2(kept), "low": -math.log2(1.1 * kept), "high": -math.log2(0.9 * kept)},
            }
            entries.append({"against": against, "metric_ref": reference, "difference": difference, "ci": ci, **forms})
    return entries


def results():
    """Returns 14 documents: 4 models on 2 datasets and 3 further head arms of the last model."""
    documents = []
    for dataset, external, factor in DATASETS:
        for rung, (model, separation, macro) in enumerate(LADDER):
            documents.append(result(model, rung, "original", dataset, external, factor * separation, macro - (0.03 if external else 0)))
        original = documents[-1]
        arms = [result(LADDER[-1][0], 3, head, dataset, external, factor * separation, macro - (0.03 if external else 0)) for head, separation, macro in ARMS]
        for arm in arms:
            arm["paired"] = paired(arm, original) + ([] if arm is arms[1] else paired(arm, arms[1]))
            change = arm["utility"]["probe"][1]["macro_auroc"] - original["utility"]["probe"][1]["macro_auroc"]
            ci = interval(change, 0.5) | {"low": change - 0.004, "high": change + 0.004}
            arm["utility"]["paired"] = [{"features": arm["model"]["head"], "against": "original", "difference": change, "ci": ci}]
        documents += arms
    return copy.deepcopy(documents)


def with_draws(documents, values, pool=1000):
    """Returns `documents` with noise-only draws whose Recall@1 at `pool` is each of `values`; the first replaces the one there."""
    first = [one for one in documents if one["model"]["head"] == "noise_only"]
    copies = [copy.deepcopy(one) | {"model": one["model"] | {"head": f"noise_only_{draw}"}} for draw in range(2, len(values) + 1) for one in first]
    for draw, value in enumerate(values):
        for one in first if draw == 0 else [one for one in copies if one["model"]["head"] == f"noise_only_{draw + 1}"]:
            entry = next(m for m in one["metrics"] if (m["name"], m["k"], m["N"], m["direction"], m["stratum"]) == ("recall", 1, pool, "i2r", "other_patient"))
            entry["value"] = value
    return documents + copies


def ledgers():
    """Returns the two ledgers of the mitigated model by workdir-relative file name."""
    common = {
        "schema_version": "1.0",
        "dataset": {"unit": "patient", "n_units_declared": 737, "n_records_declared": 2012},
        "clipping": {"norm": 1.0, "per": "record", "impl": "closed_form"},
        "sampling": {"kind": "poisson", "q": "128/737", "expected": 128},
        "steps": {"planned": 60, "executed": 60, "status": "complete"},
        "objective": {
            "id": "anchor_infonce",
            "decomposition": "per record against a public bank",
            "sensitivity": {"zero_out": 1.0},
            "anchors": {"count": 1024},
        },
        "statement": "Privacy unit: one patient. The guarantee compares the released heads with and without one patient.",
    }
    dp = common | {
        "events": [{"relation": "zero_out", "accountant_view": "rdp", "count": 1}],
        "noise": {"std_absolute": 16.1, "multiplier_vs_sensitivity": 16.1},
        "epsilon": {"delta": 6e-6, "target": 0.34, "infinite": False, "rdp": 0.33987, "pld": 0.3012},
        "data_used": True,
    }
    control = dp | {"data_used": False, "epsilon": {"delta": 6e-6, "target": None, "infinite": False, "rdp": 0.0, "pld": 0.0}}
    return {f"heads/{LADDER[-1][0]}/{arm}/privacy_ledger.json": json.loads(json.dumps(ledger)) for arm, ledger in (("dp", dp), ("noise_only", control))}


def save(directory):
    """Writes all documents under their file names, and returns them."""
    directory.mkdir(parents=True, exist_ok=True)
    documents = results()
    for document in documents:
        name = "__".join((document["model"]["name"], document["model"]["head"], document["data"]["name"]))
        (directory / f"{name}.json").write_text(json.dumps(digests.sealed(document)))
    return documents
