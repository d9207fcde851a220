"""Checks a built wheel: configs, launch, models and templates are inside, and no top-level configs or launch."""

import sys
import zipfile

WANTED = [
    "relink_jax/configs/demo.py",
    "relink_jax/launch/audit.py",
    "relink_jax/launch/demo.sh",
    *(f"relink_jax/launch/cluster/{name}" for name in ("Dockerfile", "gke_gpu.yaml", "gke_tpu.yaml", "gke_workdir.yaml", "slurm.sbatch")),
    *(f"relink_jax/launch/cluster/{name}.sh" for name in ("mpirun", "multi_gpu", "tpu_host", "tpu_vm", "until_done", "words")),
    *(f"relink_jax/report/templates/{name}" for name in ("page.html.j2", "parts.html.j2", "runs.html.j2", "summary.html.j2", "summary.css", "style.css")),
    "relink_jax/data/phantom-3-specialist/model.safetensors",
    "relink_jax/data/phantom-3-specialist/tokenizer.json",
]


def problems(names: set[str]) -> list[str]:
    """Returns one line per missing or misplaced file."""
    missing = [f"missing {name}" for name in WANTED if name not in names]
    misplaced = sorted({name.split("/")[0] for name in names} - {"relink_jax"})
    return missing + [f"top level {name}" for name in misplaced if not name.endswith(".dist-info")]


if __name__ == "__main__":
    found = problems(set(zipfile.ZipFile(sys.argv[1]).namelist()))
    print("wheel: " + ("; ".join(found) or "complete"))
    sys.exit(bool(found))
