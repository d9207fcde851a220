"""The generic adapter: a table of image-report pairs (CSV or Parquet) as rows.

One row per image-report pair, with image_path, patient_id, study_id and a text, and more where there is more (see
`columns` for the names, `rows` for the defaults of those that are not there). What the rows say is checked in `assemble`.
"""

import pathlib
from collections.abc import Sequence

from relink_jax.cohort import columns
from relink_jax.cohort.pairs import Pairs


def read(path: pathlib.Path, image_root: pathlib.Path, facts: Sequence[str] = ()) -> Pairs:
    """Returns the rows of a pairs table; report_path is relative to the table's directory.

    Args: facts: further columns that are kept, see `facts`.
    Raises: DataError: see `columns.read_columns`.
    """
    path = pathlib.Path(path)
    return Pairs(columns.called(path), columns.read_columns(path, facts), pathlib.Path(image_root), path.parent, {}, tuple(facts))
