"""Renders one run's results as a single self-contained HTML page with `numbers.json` beside it.

Nothing is loaded from anywhere: one style sheet allowed by its hash, figures as data: images, no script. Data reach the
template as plain text and numbers only, so everything is escaped. Equal inputs give equal bytes.
"""

import base64
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax.report import caveats, figures, schema, tables, words
from relink_jax.report.evidence import MATCHED, PAIRED_POOL, Cell, Evidence, Row, external
from relink_jax.store import digests, files

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
Number = tuple[float, float | None, float | None]


def render(
    results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], out_dir: pathlib.Path, title: str = "Cross-modal linkage audit",
    headline_pool: int = 1000, check_command: str = "relink report --check --workdir=DIR"
) -> pathlib.Path:  # fmt: skip
    """Writes `out_dir/index.html` and `out_dir/numbers.json` and returns the page's path.

    Args:
        results: documents of `schema.load_results`.
        ledgers: parsed privacy ledgers by workdir-relative file name, `heads/<model>/<arm>/privacy_ledger.json`.
        out_dir: directory of the page; made when absent.
        title: title of the page.
        headline_pool: pool size N of the first sentence; the largest audited one below it is taken when it does not fit.
        check_command: what the page tells its reader to run to recompute its numbers.
    Raises: StoreError: a document outside the schema, or none at all.
    """
    for result in results:
        schema.validate(result, f"results of {result.get('model', {}).get('name', 'a model')!r}")
    evidence = Evidence(results, ledgers, headline_pool)
    html = environment().get_template("page.html.j2").render(**_context(evidence, title, check_command))
    out_dir = pathlib.Path(out_dir)
    files.write_text(out_dir / "index.html", html)
    inputs = {name: digests.value_digest(document) for name, document in evidence.documents.items()}
    settings = {"title": title, "headline_pool": headline_pool}
    page_digest = digests.file_digest(out_dir / "index.html")
    record = {"schema_version": schema.VERSION, "page_sha256": page_digest, **settings, "inputs": inputs, "numbers": evidence.book.entries()}
    files.write_json(out_dir / "numbers.json", record)
    return out_dir / "index.html"


def environment() -> Any:
    """Returns the templates of the pages, everything in them escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(_TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _context(evidence: Evidence, title: str, check_command: str) -> dict[str, Any]:
    style = environment().get_template("style.css").render()
    run = evidence.results[0]["run"]
    return {
        "title": title,
        "style_hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        "synthetic": any(result["data"]["synthetic"] for result in evidence.results),
        "run": run,
        "created": run["created_utc"][:16].replace("T", " ") + " UTC",
        "version": run.get("relink_jax") or run.get("package_versions", {}).get("relink_jax") or "not recorded",
        "finding": words.finding(evidence),
        "answers": words.answers(evidence),
        "linkage": [(name, _tag(evidence, name), tables.linkage(evidence, name)) for name in evidence.datasets],
        "figures": _figures(evidence),
        "probe": tables.probe(evidence),
        "per_label": tables.per_label(evidence),
        "ledgers": [
            (_ledger_title(name), caveats.ledger_rows(evidence, name), str(ledger.get("statement", "")).splitlines())
            for name, ledger in evidence.ledgers.items()
            if not evidence.redraw(name)
        ],
        "limits": caveats.limits(evidence),
        "reverse": [table for table in (tables.reverse(evidence, name) for name in evidence.datasets) if table is not None],
        "warnings": caveats.warnings(evidence),
        "sources": [(name, str(document.get("model", {}).get("weights_sha256") or "")[:12]) for name, document in evidence.documents.items()],
        "level": _level(evidence),
        "check_command": check_command,
    }


def _tag(evidence: Evidence, dataset: str) -> str:
    data = evidence.document(dataset)[1]
    if external(data):
        return "external site"
    return "held-out patients" if data["data"].get("split") == "test" or dataset.endswith("test") else ""


def _ledger_title(name: str) -> str:
    parts = pathlib.PurePosixPath(name).parts
    return f"{parts[-3]}, {words.head_name(parts[-2])}" if len(parts) >= 3 else name


def _level(evidence: Evidence) -> str:
    levels = {entry["ci"]["level"] for result in evidence.results for entry in result["metrics"] if entry["ci"]}
    return " and ".join(f"{100 * level:g}%" for level in sorted(levels)) or "n/a"


def _figures(evidence: Evidence) -> list[dict[str, Any]]:
    """Returns the figures the results allow: id, title, caption fragments, alt text, and the desktop and phone images."""
    found = []
    mark = " (synthetic)" if any(result["data"]["synthetic"] for result in evidence.results) else ""
    subject = evidence.subject
    ladder = [_curves(evidence, dataset, evidence.ladder, mark, by_rung=True) for dataset in evidence.datasets]
    arms = [subject, *[row for row in evidence.arms if row.model == subject.model]]
    wanted = [
        (
            "pool",
            "Linkage against the number of candidates",
            figures.recall_curves,
            ladder if evidence.ladder else [],
            _curve_caption(evidence, "models with their original heads"),
        )
    ]
    if len(arms) > 1:
        panels = [_curves(evidence, dataset, arms, mark, by_rung=False) for dataset in evidence.datasets]
        wanted.append(
            (
                "arms",
                f"Before and after: the heads of {subject.model}",
                figures.recall_curves,
                panels,
                _curve_caption(evidence, f"head arms of {subject.model}"),
            )
        )
    bars = [panel for panel in (_bars(evidence, dataset, mark) for dataset in evidence.datasets) if panel is not None]
    wanted.append(("matched", "Same queries, random candidates against candidates with the same labels", figures.matched_bars, bars, _bars_caption(evidence)))  # type: ignore[arg-type]
    trades = [trade for trade in (_trade(evidence, dataset, arms, mark) for dataset in evidence.datasets) if len(trade[1]) > 1]
    wanted.append(("trade", "What is left of linkage against what is left of use", figures.trade_off, trades, _trade_caption(evidence)))  # type: ignore[arg-type]
    for name, title, draw, panels, (caption, alt) in wanted:
        if panels:
            images = {"desktop": _data_uri(draw(panels, phone=False)), "phone": _data_uri(draw(panels, phone=True))}
            found.append({"id": name, "title": title, "caption": caption, "alt": alt, **images})
    return found


def _curves(evidence: Evidence, dataset: str, rows: Sequence[Row], mark: str, by_rung: bool) -> figures.Panel:
    pools: list[int | str] = [*evidence.pools(dataset), "full"]
    drawn, chance = [], {}
    for position, row in enumerate(rows):
        points = []
        for pool in pools:
            size, by_chance = evidence.single(row, dataset, "count", "N", pool), evidence.single(row, dataset, "chance", "chance", pool)
            cell = evidence.recall(row, dataset, pool)
            if cell.value is None or cell.value.value is None or size is None or size.value is None:
                continue
            points.append((size.value, *_triple(cell)))
            if by_chance is not None and by_chance.value is not None:
                chance[size.value] = by_chance.value
        full = evidence.pointer(evidence.file(row, dataset), "recall", pool="full") is not None
        style = figures.ladder_style(position, len(rows)) if by_rung else figures.arm_style(row.head)
        if points:
            drawn.append(figures.Series(row.model if by_rung else words.head_name(row.head), style, tuple(points), full))
    return figures.Panel(dataset + mark, tuple(drawn), tuple(sorted(chance.items())))


def _bars(evidence: Evidence, dataset: str, mark: str) -> figures.Bars | None:
    pool, rows, chance, shared = evidence.matched_pool(dataset), [], None, _shared_prefix([row.model for row in evidence.ladder])
    for row in (*evidence.ladder, *evidence.arms) if pool else ():
        cells = [evidence.recall(row, dataset, pool, stratum) for stratum in (PAIRED_POOL, MATCHED)]
        if all(cell.value is not None and cell.value.value is not None for cell in cells):
            name = row.model.removeprefix(shared) if row.baseline else words.head_name(row.head).partition(",")[0]
            rows.append((name, _triple(cells[0]), _triple(cells[1])))
            number = evidence.single(row, dataset, "chance", "chance", pool, MATCHED)
            chance = number.value if number is not None else None
    return figures.Bars(f"{dataset}{mark}\nN = {pool:,}", tuple(rows), chance) if rows and chance is not None else None


def _trade(evidence: Evidence, dataset: str, rows: Sequence[Row], mark: str) -> tuple[str, list[figures.Point], float | None]:
    points = []
    for row in rows:
        bits, probe = evidence.bits(row, dataset, evidence.headline(dataset) or "full"), evidence.probe(row, dataset)
        if bits.value is not None and bits.value.value is not None and probe.value is not None and probe.value.value is not None:
            points.append(figures.Point(words.head_name(row.head), figures.arm_style(row.head), _triple(probe), _triple(bits)))
    before = evidence.probe(evidence.subject, dataset, "pre_head").value
    return dataset + mark, points, before.value if before is not None else None


def _shared_prefix(names: Sequence[str]) -> str:
    """Returns the hyphenated words that all names begin with; empty for a single name."""
    shared: list[str] = []
    for words_at in zip(*[name.split("-")[:-1] for name in names], strict=False) if len(names) > 1 else ():
        if len(set(words_at)) > 1:
            break
        shared.append(f"{words_at[0]}-")
    return "".join(shared)


def _triple(cell: Cell) -> Number:
    if cell.value is None or cell.value.value is None:
        raise ValueError("a plotted cell needs a value")
    return cell.value.value, cell.low.value if cell.low else None, cell.high.value if cell.high else None


def _curve_caption(evidence: Evidence, what: str) -> tuple[words.Fragments, str]:
    caption = f"Recall@1 of {what}, on log axes. Shaded: pointwise {_level(evidence)} intervals over patients. Hollow: every study as a candidate. Dashed: chance, 1/N."
    alt = f"Line chart on log axes: share of images linked at rank 1 against the number of candidates, for {what}, with chance."
    return [f"{caption} The values are in the tables above."], f"{alt} Values in the tables above."


def _bars_caption(evidence: Evidence) -> tuple[words.Fragments, str]:
    caption: words.Fragments = [
        "Each pair asks the same queries twice: among random candidates, and among other patients' studies with the same 14 labels. Eligible queries: "
    ]
    for index, dataset in enumerate(evidence.datasets):
        share = evidence.single(evidence.subject, dataset, "share", "n_eligible_share", evidence.matched_pool(dataset), MATCHED)
        caption += ["; " if index else "", f"{dataset} ", share if share is not None else "n/a"]
    alt = "Paired bars per model: share of images linked at rank 1 in random and in label-matched pools of the same queries, with chance."
    return [*caption, "."], f"{alt} Values in the tables above."


def _trade_caption(evidence: Evidence) -> tuple[words.Fragments, str]:
    caption: words.Fragments = [
        "Down is safer, right is more useful. Whiskers are intervals over patients; a whisker that runs to the chance line includes no lift at all. "
    ]
    caption += ["A probe is refitted for every head, so it cannot see damage that a fixed use of the embeddings would."]
    alt = f"Scatter of linkage in bits over chance against linear-probe macro AUROC for the head arms of {evidence.subject.model}. Values in the tables above."
    return caption, alt


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
