"""What every archive becomes first: rows of image-report pairs under the names of the pairs table, before anything is left out."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Rows of one archive, one per image, in the order of its own tables.

    Attributes:
        name: how errors call it, such as 'MIMIC-CXR' or "pairs table 'pairs.csv'"; no path.
        columns: equally long lists of stripped strings under the names of `columns`; ids as the archive writes them.
        image_root: directory that `image_path` is relative to.
        report_root: directory that `report_path` is relative to, for tables that name report files.
        counts: decisions made while reading, by what was decided.
        facts: columns beside those of the pairs table that travel to the audit as facts about studies.
    """

    name: str
    columns: dict[str, list[str]]
    image_root: pathlib.Path
    report_root: pathlib.Path
    counts: dict[str, int]
    facts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["image_path"])
