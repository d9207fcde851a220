"""Dataset builders of tensorflow-datasets, one per archive, each over the studies of its site in a saved cohort; they need no TensorFlow.

    builder = builders.builder("mimic_cxr", source, data_dir)
    builders.prepare(builder)
    builder.as_data_source("train")

For those who want a dataset by name, version and `download_and_prepare`. At 400,000 images `record_shards` does the same work over
many processes, resumes, and keeps the order of the cohort; TFDS here runs in one process and orders records by a hash of their keys.

Design note: TFDS puts a whole example into the message of an encoding error, and logs both examples of a duplicate key. So keys are compared
before TFDS sees one, values are checked in `examples`, and whatever else fails inside leaves here as one sentence without its cause.
The data directory has no default: TFDS's is in the home directory.

References: tensorflow_datasets/core/{split_builder,writer}.py, release 4.9.10.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.cohort import examples, schema
from relink_jax.cohort.record_shards import VERSION, Source
from relink_jax.store import files, restricted


@dataclasses.dataclass(frozen=True)
class Archive:
    """A dataset: its class, the site whose studies it has ('' for all of them), and what it is."""

    class_name: str
    site: str
    description: str


ARCHIVES = {
    "mimic_cxr": Archive("MimicCxr", "MIMIC-CXR", "MIMIC-CXR radiographs and reports; PhysioNet credentialed data use agreement."),
    "chexpert_plus": Archive("ChexpertPlus", "CheXpert-Plus", "CheXpert Plus radiographs and reports; Stanford AIMI data use agreement."),
    "open_i": Archive("OpenI", "Open-I", "Indiana University radiographs and reports, Open-I; CC BY-NC-ND 4.0."),
    "pairs_table": Archive("PairsTable", "", "Every study of a cohort that was read from a pairs table; restricted data."),
}


def builder(name: str, source: Source, data_dir: pathlib.Path, settings: examples.Settings | None = None) -> Any:
    """Returns a `tfds.core.GeneratorBasedBuilder` of file format ArrayRecord over the cohort's studies of one archive.

    Args: name: a key of `ARCHIVES`. data_dir: where the dataset goes: a new directory, made 0700, or one that is private.
    Raises: UsageError: another name, or no data_dir; StoreError: a directory open to others; DataError: no image of that site.
    """
    if name not in ARCHIVES:
        raise errors.UsageError(errors.describe("dataset", "builders", f"one of {', '.join(ARCHIVES)}", repr(name)) + errors.suggest(name, ARCHIVES))
    if not str(data_dir) or str(data_dir) == ".":
        raise errors.UsageError(errors.describe("data_dir", "builders", "a directory of its own for restricted data", "none"))
    files.make_dir(pathlib.Path(data_dir))
    restricted.check_private(data_dir)
    _rows(source.cohort(), ARCHIVES[name].site)
    return _class(name)(source=source, settings=settings or examples.Settings(), data_dir=str(data_dir), file_format="array_record")


def prepare(made: Any) -> None:
    """Writes the dataset of a builder, which is what `download_and_prepare` of it does; files end up 0600.

    Raises: DataError: see `examples`; StoreError: whatever else fails inside TFDS, by the kind of the failure alone.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=str(made.source.directory))
    failure: errors.RelinkError | None = None
    try:
        made.download_and_prepare(download_config=config)
    except errors.RelinkError as error:
        failure = type(error)(str(error))
    except Exception as error:  # its message may hold an example
        failure = errors.StoreError(errors.describe("dataset not written", "builders", "a finished download_and_prepare", type(error).__name__))
    if failure:  # raised here, where nothing is chained to it
        raise failure
    for directory, _, names in os.walk(made.private):
        os.chmod(directory, 0o700)
        for file in names:
            os.chmod(pathlib.Path(directory) / file, 0o600)


def _rows(cohort: schema.Cohort, site: str) -> np.ndarray:
    """Returns int32 [n], the images of a site; `DataError` when there is none or two have one key."""
    rows = np.flatnonzero(cohort.study_site[cohort.image_study] == site) if site else np.arange(len(cohort.image_key))
    if not len(rows):
        raise errors.DataError(errors.describe("images", f"cohort, site {site!r}", "at least one", "none"))
    repeated = len(rows) - len(set(cohort.image_key[rows].tolist()))
    if repeated:
        raise errors.DataError(errors.describe("duplicate image keys", "cohort", "distinct ones", f"{repeated} repeated"))
    return rows.astype(np.int32)


@functools.cache
def _class(name: str) -> Any:
    """Returns the builder class of an archive, made on first use because importing TFDS takes seconds."""
    import tensorflow_datasets as tfds

    archive = ARCHIVES[name]

    def initialise(self: Any, *, source: Source, settings: examples.Settings, **options: Any) -> None:
        self.source, self.settings, self.private = source, settings, options["data_dir"]
        tfds.core.GeneratorBasedBuilder.__init__(self, **options)

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=examples.connector(), description=archive.description)

    def splits(self: Any, dl_manager: Any) -> dict[str, Any]:
        cohort = self.source.cohort()
        rows = _rows(cohort, archive.site)
        held = cohort.study_split[cohort.image_study[rows]]
        return {split: self._generate_examples(rows[held == split]) for split in schema.SPLITS if (held == split).any()}

    def generate(self: Any, rows: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
        cohort = self.source.cohort()
        for row in rows.tolist():
            record = examples.example(cohort, row, self.settings)
            examples.serialised(record, schema.called(row))  # what TFDS cannot encode is refused here, without its text
            yield record["image_key"], record

    body = {
        **{"__init__": initialise, "_info": info, "_split_generators": splits, "_generate_examples": generate},
        **{"__module__": __name__, "__doc__": archive.description, "name": name, "VERSION": tfds.core.Version(VERSION)},
        "code_path": None,  # else TFDS looks for checksums beside this file with importlib_resources, which it does not bring on Python 3.9 and later
        "MANUAL_DOWNLOAD_INSTRUCTIONS": "The directory of a cohort that 'relink cohort' saved.",
    }
    return type(archive.class_name, (tfds.core.GeneratorBasedBuilder,), body)
