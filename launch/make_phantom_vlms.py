"""Train the four packaged phantom models again, from nothing.

`python -m launch.make_phantom_vlms --out=DIR` draws a synthetic population of its own (site A only, seed 20001; the demo
uses seed 7), trains a tokenizer on its reports and one dual encoder in four rungs, and writes each rung to DIR/<name> in
the published CLIP layout. The packaged files came from this command; a second run reproduces the procedure and the ladder,
not the bytes, because a budget in minutes gives another machine another number of steps. With --steps it is repeatable up
to the rounding of the machine.
"""

import pathlib

from absl import app, flags

from relink_jax.encoders import phantom_models
from relink_jax.store import digests

_OUT = flags.DEFINE_string("out", None, "directory that gets one subdirectory per model", required=True)
_PATIENTS = flags.DEFINE_integer("patients", 30_000, "synthetic patients to draw; those of site A (72 %) are used", lower_bound=50)
_MINUTES = flags.DEFINE_float("minutes", 30.0, "wall time of the training, all rungs together", lower_bound=0.1)
_STEPS = flags.DEFINE_integer("steps", 0, "training steps of all rungs together; 0 trains by --minutes", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 20_001, "seed of population, initialisation and batches; validation uses the next seed")


def main(argv: list[str]) -> None:
    """Draws the population, trains, writes, and prints the digest of each model's weights."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: expected only flags")
    out = pathlib.Path(_OUT.value)
    print(f"drawing {_PATIENTS.value:,} patients", flush=True)
    training = phantom_models.corpus(_SEED.value, _PATIENTS.value)
    validation = phantom_models.corpus(_SEED.value + 1, max(50, min(1200, _PATIENTS.value // 10)))
    print(f"training on {len(training.images):,} images", flush=True)
    phantom_models.make(out, training, validation, _SEED.value, minutes=_MINUTES.value, steps=_STEPS.value, say=lambda line: print(line, flush=True))
    for rung in phantom_models.RUNGS:
        print(f"{rung.name:<22} model.safetensors sha256 {digests.file_digest(out / rung.name / 'model.safetensors')}")


if __name__ == "__main__":
    app.run(main)
