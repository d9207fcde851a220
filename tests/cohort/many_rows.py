"""Rows of a made-up archive of any size: studies of one to three images, a share of identical and of empty reports, MIMIC-like ids."""

import pathlib

import numpy as np

from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.schema import LABELS

WORDS = ("the", "lungs", "are", "clear", "without", "effusion", "heart", "size", "is", "normal", "mild", "edema", "in", "left", "right", "base", "stable")


def many(studies, *, site="MIMIC-CXR", seed=0, words=40):
    """Returns `Pairs` of about 1.65 images per study and 3.5 studies per patient; strings are shared between the rows of a study."""
    draw = np.random.default_rng(seed)
    patients = draw.integers(0, max(1, studies * 2 // 7), studies)
    split = draw.choice(["train", "validate", "test"], studies, p=[0.9, 0.04, 0.06])
    columns = {name: [] for name in ("image_path", "image_id", "patient_id", "study_id", "report_id", "findings", "impression", "report_text")}
    columns |= {name: [] for name in ("labelled_text", "view", "split", "origin", "site", "label_source", *LABELS)}
    of_patient = dict(zip(patients.tolist(), split.tolist(), strict=True))
    for study, patient in enumerate(patients.tolist()):
        findings = " ".join(WORDS[i] for i in draw.integers(0, len(WORDS), int(draw.integers(0, 2 * words)))) if draw.random() < 0.7 else ""
        impression = "No acute process." if draw.random() < 0.4 else " ".join(WORDS[i] for i in draw.integers(0, len(WORDS), int(draw.integers(0, 20))))
        whole, name = f"FINDINGS: {findings}\nIMPRESSION: {impression}", str(50_000_001 + study)
        labels = ["1" if draw.random() < 0.2 else "" for _ in LABELS]
        for image in range(int(draw.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))):
            view = ("PA", "LATERAL", "AP", "OTHER", "")[int(draw.choice(5, p=[0.3, 0.25, 0.4, 0.01, 0.04]))]
            ident = f"{study:08x}-{image:08x}"
            row = {"image_path": f"files/p10/p{10_000_001 + patient}/s{name}/{ident}.jpg", "image_id": ident, "patient_id": str(10_000_001 + patient)}
            row |= {"study_id": name, "report_id": name, "findings": findings, "impression": impression, "report_text": whole}
            row |= {"labelled_text": impression or findings, "view": view, "split": of_patient[patient], "site": site, "label_source": "chexpert"}
            row |= {"origin": f"mimic-cxr/{of_patient[patient]}", **dict(zip(LABELS, labels, strict=True))}
            for column, cell in row.items():
                columns[column].append(cell)
    return Pairs(site, columns, pathlib.Path("/nowhere"), pathlib.Path("/nowhere"), {"no report file": 3})
