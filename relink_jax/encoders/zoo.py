"""The dual encoders relink_jax ships, and the door for a user's own.

The four phantom models are synthetic: trained by `python -m launch.make_phantom_vlms` on generated images and reports,
one CLIP-form architecture at four stages of one training, so that the ladder of specialisation can be audited anywhere
without a licence or a download. They say nothing about any real model's risk.
"""

import dataclasses
import pathlib

from relink_jax import errors
from relink_jax.encoders import specs

_DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
_LICENCE = "Apache-2.0; trained on synthetic data only"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a packaged model beside its files."""

    specialisation: int
    description: str
    exposure: str
    sha256: str


ENTRIES = {
    "phantom-0-untrained": Entry(
        specialisation=0,
        description="random initialisation, no training",
        exposure="no text",
        sha256="0b05c71080f5cde5e1fc026c857d4f61b4fcb04123667a6263fc268024320461",
    ),
    "phantom-1-labels": Entry(
        specialisation=1,
        description="image to label caption, contrastive",
        exposure="one caption per study naming its positive labels",
        sha256="11b2a611baae23abafe30b65d9a3e576592b5c279385f05ec001f456709f76bf",
    ),
    "phantom-2-reports": Entry(
        specialisation=2,
        description="rung 1, then image to report for a short time",
        exposure="findings and impression of synthetic site A reports",
        sha256="42698b84c751f72460294a1eeb161213170626e5182696a1e269cb7bb225c2ee",
    ),
    "phantom-3-specialist": Entry(
        specialisation=3,
        description="rung 2, then image to report for the longest time",
        exposure="findings and impression of synthetic site A reports",
        sha256="0cc5472f7a8a49f7894ee960f49301f8e1fb877fba9e0562b0cb1c69a9c8586c",
    ),
}


def list_vlms() -> tuple[str, ...]:
    """Returns the names of the packaged models in rising order of specialisation."""
    return tuple(sorted(ENTRIES, key=lambda name: ENTRIES[name].specialisation))


def get_vlm(name: str) -> specs.VLMSpec:
    """Returns the spec of a packaged model.

    Raises: UsageError: no such model (suggests the nearest name). DataError: damaged package data.
    """
    if name not in ENTRIES:
        raise errors.UsageError(
            f"unknown model {name!r} in models: expected one of {', '.join(list_vlms())}, or --source=DIR with --model=NAME for a checkpoint directory, "
            f"found another name{errors.suggest(name, ENTRIES)}"
        )
    entry = ENTRIES[name]
    spec = from_directory(_DATA / name)
    return dataclasses.replace(
        spec, specialisation=entry.specialisation, description=entry.description, exposure=entry.exposure, licence=_LICENCE, sha256=entry.sha256
    )


def from_directory(path: str | pathlib.Path) -> specs.VLMSpec:
    """Returns the spec of a checkpoint directory in the published CLIP layout, named after the directory.

    The directory holds config.json, model.safetensors, preprocessor_config.json and tokenizer files; only the first is read
    here, `convert.convert` checks them all.
    Raises: DataError: a missing or unreadable config, or one that describes another kind of model.
    """
    directory = pathlib.Path(path).expanduser()
    image, text, dim = specs.read_clip(specs.read_json(directory))
    return specs.VLMSpec(
        name=directory.resolve().name,
        directory=directory,
        image=image,
        text=text,
        dim=dim,
        specialisation=-1,
        description="checkpoint directory of the user",
        exposure="unknown",
        licence="unknown",
        sha256=None,
    )
