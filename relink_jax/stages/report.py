"""The report stage: the page from the results files, or a check that every number on it follows from them."""

import dataclasses
import pathlib
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import result
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.report import check as check_lib
from relink_jax.report import page, schema
from relink_jax.stages import context
from relink_jax.store import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Report:
    """The headline table as text, the page, and what a check compared (0 numbers when only written)."""

    table: str
    page: pathlib.Path
    checked: int = 0


def run(config: config_lib.RunConfig, workdir: str, check: bool | None = None) -> Report:
    """Writes report/index.html and report/numbers.json, or with `check` recomputes them and compares.

    The check rebuilds every metric and interval from the per-query Parquet, every ledger's epsilon from its events, and
    every number of the page from the results files.

    Raises: StoreError: no results, damaged ones, or a number that does not come out again (names it).
    """
    found = context.open_run(config, workdir)
    with workdir_lib.locked(found):
        documents = schema.load_results(found.results)
        paths = sorted(found.root.glob(f"heads/*/*/{ledger_lib.FILE_NAME}"))
        ledgers = {path.relative_to(found.root).as_posix(): ledger_lib.load(path) for path in paths}
        table = headline(documents, config.report.headline_pool)
        if not check:
            written = page.render(documents, ledgers, found.report, config.report.title, config.report.headline_pool, _command(config, found))
            return Report(table, written)
        compared = sum(_recomputed(found.results / f"{schema.stem(document)}.json") for document in documents)
        compared += check_lib.check(documents, ledgers, found.report)
        return Report(table, found.report / "index.html", compared)


def describe(report: Report) -> str:
    """Returns what was written, or what was compared."""
    if report.checked:
        return f"{report.checked:,} numbers recomputed from results files, Parquet and ledgers: all agree"
    return f"{report.table}\n\npage: {report.page}"


def headline(documents: list[dict[str, Any]], pool: int) -> str:
    """Returns Recall@1 of every results file at the largest audited pool up to `pool`, matched Recall@1 and probe AUROC, as text."""
    rows = [("model", "heads", "data", "N", "Recall@1", "95% interval", "chance", "lift", "matched (N)", "probe AUROC")]
    for document in documents:
        plain, matched = (_at(document, pool, stratum) for stratum in ("other_patient", "label_matched"))
        if plain is None:
            continue
        probe = {entry["features"]: entry["macro_auroc"] for entry in document["utility"]["probe"]}.get(document["model"]["head"])
        level = plain["ci"]
        rows.append(
            (
                document["model"]["name"],
                document["model"]["head"],
                document["data"]["name"],
                f"{plain['N']:,}",
                f"{plain['value']:.2%}",
                f"{level['low']:.2%} to {level['high']:.2%}" if level else "-",
                f"{plain['chance']:.2%}",
                f"{plain['lift']:.1f}x",
                f"{matched['value']:.1%} ({matched['N']:,})" if matched else "-",
                f"{probe:.4f}" if probe is not None else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _at(document: dict[str, Any], pool: int, stratum: str) -> dict[str, Any] | None:
    fitting = [
        entry
        for entry in document["metrics"]
        if (entry["name"], entry["k"], entry["direction"], entry["stratum"]) == ("recall", 1, "i2r", stratum) and not entry["full"] and entry["N"] <= pool
    ]
    return max(fitting, key=lambda entry: entry["N"], default=None)


def _recomputed(path: pathlib.Path) -> int:
    found = result.recompute(path)
    if found["mismatches"]:
        where, _, what = found["mismatches"][0].partition(": ")
        raise errors.StoreError(
            errors.describe("number does not come out again", f"results file {path.name!r} at {where}", "the value rebuilt from its Parquet", what)
        )
    return int(found["numbers"])


def _command(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> str:
    return f"relink report --check --config={config.name} --workdir={found.root.name}"
