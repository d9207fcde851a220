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


def check(results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], out_dir: pathlib.Path) -> int:
    """Recomputes every number of `out_dir/index.html` from the documents it was rendered from and returns how many there are.

    Args: `results`, `ledgers`, `out_dir`: as in `page.render`.
    Raises: StoreError: no page, a number that does not come out again or is printed otherwise (names it), a page that was
        edited, or one made from other results.
    """
    page = pathlib.Path(out_dir) / "index.html"
    if not page.exists():
        raise errors.StoreError(errors.describe("page missing", "workdir entry 'report'", "index.html", "nothing; run the report stage first"))
    record = files.read_object(page.with_name("numbers.json"), {"page_sha256": str, "inputs": dict, "numbers": list}, "report/numbers.json")
    digest = digests.stored_digest(page, "report/index.html")
    documents = documents_of(results, ledgers)
    printed = _Printed()
    printed.feed(page.read_text(encoding="utf-8", errors="replace"))
    entries = {entry["id"]: entry for entry in record["numbers"]}
    for entry in entries.values():
        again = values.evaluate(documents, entry["formula"], [(source["file"], source["pointer"]) for source in entry["sources"]])
        if not _equal(again, entry["value"]) or values.write(entry["kind"], again) != entry["text"]:
            _fail(entry, values.write(entry["kind"], again), entry["text"])
    for number, text in printed.numbers:
        if number not in entries:
            raise errors.StoreError(errors.describe("number without a source", "report/index.html", "an entry of numbers.json", f"id {number!r}"))
        if text != entries[number]["text"]:
            _fail(entries[number], entries[number]["text"], text)
    if digest != record["page_sha256"]:
        raise errors.StoreError(errors.describe("page edited", "report/index.html", f"SHA-256 {record['page_sha256'][:12]}", digest[:12]))
    changed = sorted(
        name for name in {**record["inputs"], **documents} if name not in documents or digests.value_digest(documents[name]) != record["inputs"].get(name)
    )
    if changed:
        raise errors.StoreError(
            errors.describe("page made from other results", changed[0], "the file the page was rendered from", "another; render the page again")
        )
    return len(entries)


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


def _fail(entry: Mapping[str, Any], expected: str, found: str) -> None:
    where = f"report/index.html, {entry['label']}"
    raise errors.StoreError(errors.describe("number does not come out again", where, f"{expected}, from {entry['sources'][0]['file']}", found))
