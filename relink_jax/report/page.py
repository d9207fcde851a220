"""Renders one run's results as a self-contained HTML page, a one-page summary for governance, and `numbers.json` with every number of both.

Nothing is loaded from anywhere: one style sheet allowed by its hash, figures and their points as data: addresses, no script. Data reach
the templates as plain text and numbers only, so everything is escaped. Equal inputs give equal bytes.
"""

import base64
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax.report import (
    answers,
    appendix,
    caveats,
    first_screen,
    plots,
    plots_linkage,
    plots_risk,
    plots_utility,
    schema,
    schema_parts,
    summary,
    tables,
    values,
    words,
)
from relink_jax.report.evidence import Evidence, external
from relink_jax.store import digests, files

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
PAGE, SUMMARY, NUMBERS = "index.html", "summary.html", "numbers.json"


def render(
    results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], out_dir: pathlib.Path, title: str = "Cross-modal linkage audit",
    headline_pool: int = 1000, check_command: str = "relink report --check --workdir=DIR", comparisons: dict[str, Any] | None = None,
) -> pathlib.Path:  # fmt: skip
    """Writes `index.html`, `summary.html` and `numbers.json` into `out_dir` and returns the page's path.

    Args:
        results: documents of `schema.load_results`.
        ledgers: parsed privacy ledgers by workdir-relative file name, `heads/<model>/<arm>/privacy_ledger.json`.
        out_dir: directory of the page; made when absent.
        title: title of the page.
        headline_pool: pool size N of the first sentence; the largest audited one below it is taken when it does not fit.
        check_command: what the page tells its reader to run to recompute its numbers.
        comparisons: results/comparisons.json, where the audit wrote one.
    Raises: StoreError: a document outside the schema, or none at all.
    """
    for result in results:
        schema.validate(result, f"results of {result.get('model', {}).get('name', 'a model')!r}")
    if comparisons is not None:
        schema_parts.validate_comparisons(comparisons, results)
    evidence = Evidence(results, ledgers, headline_pool, comparisons)
    context = _context(evidence, title, check_command)
    pages = {PAGE: html("page.html.j2", context), SUMMARY: html("summary.html.j2", {**context, **summary.context(evidence)}, "summary.css")}
    return write(pages, pathlib.Path(out_dir), NUMBERS, evidence.book, evidence.documents, title=title, headline_pool=headline_pool) / PAGE


def write(pages: Mapping[str, str], out_dir: pathlib.Path, numbers: str, book: Any, documents: Mapping[str, Any], **settings: Any) -> pathlib.Path:
    """Writes pages by file name and the file of their numbers into `out_dir`, and returns it."""
    for name, text in pages.items():
        files.write_text(out_dir / name, text)
    inputs = {name: digests.value_digest(document) for name, document in documents.items()}
    written = {name: digests.file_digest(out_dir / name) for name in pages}
    files.write_json(out_dir / numbers, {"schema_version": schema.VERSION, "pages": written, **settings, "inputs": inputs, "numbers": book.entries()})
    return out_dir


def html(template: str, context: Mapping[str, Any], *more_styles: str) -> str:
    """Returns a rendered template with its style sheet and that sheet's hash for the page's policy."""
    templates = environment()
    style = "".join(templates.get_template(name).render() for name in ("style.css", *more_styles))
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return str(templates.get_template(template).render(**context, style=style, style_hash=style_hash))


def environment() -> Any:
    """Returns the templates of the pages, everything in them escaped and what no reader sees replaced (`values.seen`)."""
    import jinja2

    loader = jinja2.FileSystemLoader(_TEMPLATES)

    def shown(value: Any) -> Any:
        return values.seen(value) if type(value) is str else value

    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True)


def _context(evidence: Evidence, title: str, check_command: str) -> dict[str, Any]:
    run = evidence.results[0]["run"]
    made = [*plots_linkage.every(evidence), *plots_risk.every(evidence), *plots_utility.every(evidence)]
    return {
        "title": title,
        "synthetic": any(result["data"]["synthetic"] for result in evidence.results),
        "run": run,
        "created": run["created_utc"][:16].replace("T", " ") + " UTC",
        "version": run.get("relink_jax") or run.get("package_versions", {}).get("relink_jax") or "not recorded",
        "finding": first_screen.finding(evidence),
        "alarms": first_screen.warnings(evidence),
        "answers": answers.answers(evidence),
        "linkage": [(name, _tag(evidence, name), tables.linkage(evidence, name)) for name in evidence.datasets],
        "figures": [plots.embedded(plot) for plot in made],
        "probe": tables.probe(evidence),
        "per_label": tables.per_label(evidence),
        "ledgers": [
            (_ledger_title(name), caveats.ledger_rows(evidence, name), str(ledger.get("statement", "")).splitlines())
            for name, ledger in evidence.ledgers.items()
            if not evidence.redraw(name)
        ],
        "limits": caveats.limits(evidence),
        "reverse": [table for table in (tables.reverse(evidence, name) for name in evidence.datasets) if table is not None],
        "folds": appendix.folds(evidence),
        "warnings": caveats.warnings(evidence),
        "sources": [(name, str(document.get("model", {}).get("weights_sha256") or "")[:12]) for name, document in evidence.documents.items()],
        "level": plots.level(evidence),
        "check_command": check_command,
        "summary_page": SUMMARY,
        "page": PAGE,
    }


def _tag(evidence: Evidence, dataset: str) -> str:
    data = evidence.document(dataset)[1]
    if external(data):
        return "external site"
    return "held-out patients" if data["data"].get("split") == "test" or dataset.endswith("test") else ""


def _ledger_title(name: str) -> str:
    parts = pathlib.PurePosixPath(name).parts
    return f"{parts[-3]}, {words.head_name(parts[-2])}" if len(parts) >= 3 else name
