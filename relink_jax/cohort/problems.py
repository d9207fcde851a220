"""One thing that is wrong with a table, as a value: reading raises the first one, checking lists them all."""

import dataclasses
from collections.abc import Iterable

from relink_jax import errors


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong at one place; holds no cell, identifier, text or path, so that it may be shown to anybody.

    Attributes:
        row: data row counted from 1, header not counted; 0 for the whole table.
        column: name of the column, '' for the whole row.
    """

    row: int
    column: str
    what: str
    expected: str
    found: str

    def told(self, where: str) -> str:
        """Returns the house's sentence about it; `where` names the table or archive."""
        place = where + (f", data row {self.row}" if self.row else "") + (f", column {self.column!r}" if self.column else "")
        return errors.describe(self.what, place, self.expected, self.found)


def refuse(problems: Iterable[Problem], where: str) -> None:
    """Raises `DataError` with the first problem, if there is one."""
    for problem in problems:
        raise errors.DataError(problem.told(where))
