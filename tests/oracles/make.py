"""Writes every golden under tests/goldens/: `python tests/oracles/make.py [FAMILY ...]`, in an environment with torch and transformers.

For each family a directory with a small checkpoint in its published layout, `oracle.json` (geometry) and `oracle.npz` (inputs, and outputs in
float64). Pixels are drawn in half precision, which stores them exactly. The default tests convert these files without torch.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from oracles import core, families  # noqa: E402

GOLDENS = TESTS / "goldens"
SEED, COUNT = 11, 2
NOT_WITHOUT_TORCH = {"clip-openai": "a TorchScript program, which only torch reads; CheXzero's file has the same layout"}
STORED = tuple(name for name in families.FAMILIES if name not in NOT_WITHOUT_TORCH)
OUTPUTS = ("features", "embeddings")


def make(family: str, directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Writes one family's checkpoint and geometry into `directory` and returns its inputs and outputs."""
    oracle = families.build(family, directory, SEED, "small")
    core.write_json(directory / "oracle.json", oracle.geometry)
    pixels, ids = oracle.inputs(SEED, COUNT)
    arrays = {"pixels": pixels.astype(np.float16), "ids": ids}
    outputs = oracle.reference(arrays["pixels"], ids)
    if family == "biovil-t":
        arrays["prior"] = oracle.inputs(SEED + 50, COUNT)[0].astype(np.float16)
        paired = oracle.reference(arrays["pixels"], ids, arrays["prior"])
        outputs |= {f"paired_{name}": value for name, value in paired.items() if name.startswith("image_")}
    return arrays | {name: value for name, value in outputs.items() if name.endswith(OUTPUTS)}


def main(names: tuple[str, ...]) -> None:
    """Replaces the goldens of the named families."""
    for family in names:
        with tempfile.TemporaryDirectory() as temporary:
            made = pathlib.Path(temporary, family)
            np.savez_compressed(made / "oracle.npz", **make(family, made))
            shutil.rmtree(GOLDENS / family, ignore_errors=True)
            shutil.copytree(made, GOLDENS / family)
        size = sum(path.stat().st_size for path in (GOLDENS / family).iterdir())
        print(f"{family}: {size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or STORED)
    if not sys.argv[1:]:
        subprocess.run([sys.executable, str(TESTS / "parity" / "make_goldens.py")], check=True)
