"""Checks a written page against the files it was made from: every number read, computed and printed again.

This covers the way from results files to page; the way from per-query counts to results files belongs to the audit.
"""

import html.parser
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.report import values
from relink_jax.report.evidence import documents_of
from relink_jax.store import digests, files

_TOLERANCE = 1e-12


def check(results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], out_dir: pathlib.Path, comparisons: dict[str, Any] | None = None) -> int:
    """Recomputes every number of the pages in `out_dir` from the documents they were rendered from and returns how many there are.

    Args: `results`, `ledgers`, `out_dir`, `comparisons`: as in `page.render`.
    Raises: StoreError: no page, a number that does not come out again or is printed otherwise (names it), a page that was
        edited, or one made from other results.
    """
    return check_pages(documents_of(results, ledgers, comparisons), pathlib.Path(out_dir), "numbers.json", ("index.html", "summary.html"), "report/")


def check_pages(documents: Mapping[str, Any], out_dir: pathlib.Path, numbers: str, pages: Sequence[str], prefix: str = "") -> int:
    """Recomputes every number of `pages` in `out_dir`, which the file `numbers` lists, from `documents`; returns how many there are.

    Errors name a file with `prefix` before it. Raises: StoreError: see `check`.
    """
    for name in pages:
        if not (out_dir / name).exists():
            where = f"workdir entry {prefix.rstrip('/')!r}" if prefix else f"directory of {pages[0]!r}"
            raise errors.StoreError(errors.describe("page missing", where, name, "nothing; run the report stage first"))
    record = files.read_object(out_dir / numbers, {"pages": dict, "inputs": dict, "numbers": list}, f"{prefix}{numbers}")
    found = {name: digests.stored_digest(out_dir / name, f"{prefix}{name}") for name in pages}
    entries = {entry["id"]: entry for entry in record["numbers"]}
    for entry in entries.values():
        again = values.evaluate(documents, entry["formula"], [(source["file"], source["pointer"]) for source in entry["sources"]])
        if not _equal(again, entry["value"]) or values.write(entry["kind"], again) != entry["text"]:
            _fail(entry, f"{prefix}{pages[0]}", values.write(entry["kind"], again), entry["text"])
    for name in pages:
        _printed(out_dir / name, f"{prefix}{name}", entries)
    for name, digest in found.items():
        if digest != record["pages"].get(name):
            expected = f"SHA-256 {str(record['pages'].get(name))[:12]}"
            raise errors.StoreError(errors.describe("page edited", f"{prefix}{name}", expected, digest[:12]))
    changed = sorted(
        name for name in {**record["inputs"], **documents} if name not in documents or digests.value_digest(documents[name]) != record["inputs"].get(name)
    )
    if changed:
        raise errors.StoreError(
            errors.describe("page made from other results", changed[0], "the file the page was rendered from", "another; render the page again")
        )
    return len(entries)


def _printed(page: pathlib.Path, where: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `StoreError` when a page prints a number that is not listed, or not as it is listed."""
    printed = _Printed()
    printed.feed(page.read_text(encoding="utf-8", errors="replace"))
    for number, text in printed.numbers:
        if number not in entries:
            raise errors.StoreError(errors.describe("number without a source", where, "an entry of numbers.json", f"id {number!r}"))
        if text != entries[number]["text"]:
            _fail(entries[number], where, entries[number]["text"], text)


class _Printed(html.parser.HTMLParser):
    """Collects (id, text) of every element that carries a number."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Starts a number at an element with a data-id."""
        number = dict(attrs).get("data-id")
        if number is not None:
            self.numbers.append((number, ""))
            self._open = True

    def handle_data(self, data: str) -> None:
        """Adds text to the open number."""
        if self._open:
            number, text = self.numbers[-1]
            self.numbers[-1] = (number, text + data)

    def handle_endtag(self, tag: str) -> None:
        """Ends the open number; number elements hold text only."""
        self._open = False


def _equal(again: float | None, stored: float | None) -> bool:
    if again is None or stored is None:
        return again is stored
    return abs(again - stored) <= _TOLERANCE * max(1.0, abs(stored))


def _fail(entry: Mapping[str, Any], where: str, expected: str, found: str) -> None:
    told = f"{expected}, from {entry['sources'][0]['file']}"
    raise errors.StoreError(errors.describe("number does not come out again", f"{where}, {entry['label']}", told, found))
