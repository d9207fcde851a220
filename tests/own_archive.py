"""A small archive of a user's own: PNG files and their pairs table."""

import csv
import pathlib

import numpy as np
from PIL import Image


def archive(root: pathlib.Path, **changes) -> list[dict[str, str]]:
    """Writes 12 PNG files and returns the rows of their pairs table; `changes` maps 'row:column' to a new value."""
    (root / "png").mkdir(parents=True)
    rows = []
    for index in range(12):
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 40), dtype=np.uint8)).save(root / "png" / f"{index}.png")
        patient = index // 2
        rows.append(
            {"image_path": f"{index}.png", "image_id": f"im{index}", "report_id": f"r{index}", "patient_id": f"p{patient}", "study_id": f"s{index}"}
            | {"findings": f"finding number {index}", "impression": "none", "view": "PA", "split": ("train", "validate", "test")[patient // 2]}
            | {"site": "A", "No Finding": "1", "Pleural Effusion": "0"}
        )
    for where, value in changes.items():
        row, column = where.split(":")
        rows[int(row)][column] = value
    return rows


def write(root: pathlib.Path, rows: list[dict[str, str]]) -> list[str]:
    """Writes the table and returns the flags that read it."""
    with (root / "pairs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [
        "--config.cohort.source=table",
        f"--config.cohort.table={root / 'pairs.csv'}",
        f"--config.cohort.image_root={root / 'png'}",
        f"--workdir={root / 'w'}",
    ]
