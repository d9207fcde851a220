"""Writes the golden files of the comparison anew; run it when its document changes on purpose, and read the difference."""

import json
import pathlib

import flat_ledgers

from relink_jax.privacy import compare, compare_text

FOLDER = pathlib.Path(__file__).parent.parent / "goldens" / "accountants"

if __name__ == "__main__":
    document = compare.comparison(flat_ledgers.three(), convert=True, curves=True)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "comparison.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    (FOLDER / "comparison.txt").write_text(compare_text.text(json.loads(json.dumps(document))))
