"""A small saved cohort over picture files of several kinds, and the canaries that may be nowhere but in restricted places."""

import pathlib

import numpy as np
from PIL import Image

from relink_jax.cohort import assemble, recipes, record_shards, schema, table
from relink_jax.store import files

SECRET = "CANARYTEXT"
KEY = bytes(range(32))
_SPLITS = ("train", "train", "train", "validate", "test")


def picture(directory: pathlib.Path, number: int) -> str:
    """Writes a picture and returns its name: 8-bit PNG, JPEG, 16-bit PNG, 12-bit in a 16-bit PNG, dark 16-bit, colour JPEG, small PNG, in turns."""
    draw, kind = np.random.default_rng(number), number % 7
    height, width = (40, 57) if kind != 6 else (20, 24)
    plane = draw.random((height, width))
    name = f"CANARYPATH{number:03d}." + ("jpg" if kind in (1, 5) else "png")
    made = {
        **{0: plane * 255, 1: plane * 255, 2: plane * 65535, 3: plane * 4095, 6: plane * 255},
        4: np.where(plane > 0.5, 40, 3),  # brightest pixel 40: 12-bit to every reader, and still so after a resize
        5: np.stack([plane, plane[::-1], plane[:, ::-1]], -1) * 255,
    }[kind]
    Image.fromarray(made.astype(np.uint16 if kind in (2, 3, 4) else np.uint8)).save(directory / name)
    return name


def source(root: pathlib.Path, studies: int = 10, *, sites: tuple[str, ...] = ("",), tail: str = "") -> record_shards.Source:
    """Saves a cohort of two images a study, one study a patient, and returns where it lies; `tail` goes behind each report."""
    images = files.make_dir(root / "images")
    lines = ["image_path,patient_id,study_id,image_id,report_text,view,split,site,Edema,Fracture"]
    for study in range(studies):
        for view in ("PA", "AP"):
            number = len(lines) - 1
            text = f"{SECRET} report {study} fully normal é{tail}"
            fields = (f"1000{study:04d}", f"5000{study:04d}", f"CANARYID{number}", text, view, _SPLITS[study % 5], sites[study % len(sites)])
            lines.append(",".join([picture(images, number), *fields, str(study % 2), "-1" if study % 3 else ""]))
    files.write_text(root / "pairs.csv", "\n".join(lines) + "\n")
    recipe = recipes.Recipe(views=("PA", "AP"), text_field="report_text")
    cohort = assemble.assemble([table.read(root / "pairs.csv", images)], recipe, key=KEY, name="small")
    cohort.save(root / "cohort")
    return record_shards.Source(root / "cohort", (images,))


def files_of(cohort: schema.Cohort, found: record_shards.Source) -> list[pathlib.Path]:
    """Returns the picture file of each image."""
    return [found.image_roots[0] / name for name in cohort.image_path]
