"""The report stage: the page from the results files, or a check that every number on it follows from them."""

import dataclasses
import pathlib
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import result
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.report import check as check_lib
from relink_jax.report import evidence as evidence_lib
from relink_jax.report import page, schema
from relink_jax.report.evidence import MATCHED, PAIRED_POOL
from relink_jax.stages import context, ensembles
from relink_jax.store import workdir as workdir_lib

TIMES = "\N{MULTIPLICATION SIGN}"
COMPARED = 100  # pool size shown for every dataset beside the headline one


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
    with context.opened(config, workdir) as found:
        documents = schema.load_results(found.results)
        ledgers = _ledgers(found, documents)
        table = headline(documents, config.report.headline_pool)
        if not check:
            written = page.render(
                documents, ledgers, found.report, config.report.title, config.report.headline_pool, f"relink report --check --workdir={found.root.name}"
            )
            return Report(table, written)
        compared = sum(_recomputed(found.results / f"{schema.stem(document)}.json") for document in documents)
        compared += check_lib.check(documents, ledgers, found.report)
        return Report(table, found.report / "index.html", compared)


def _ledgers(found: workdir_lib.Workdir, documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the ledgers of the audited heads by workdir-relative path, after checking that results, heads and ledgers belong together.

    Raises: StoreError: see `context.load_arm`; also results of other heads, or that state another epsilon than the ledger.
    """
    ledgers: dict[str, dict[str, Any]] = {}
    for document in documents:
        model, arm = document["model"]["name"], document["model"]["head"]
        ensemble, ledger = ensembles.load(found, model), None
        if ensemble is not None:
            heads_sha256 = ensemble.digest("heads_sha256")
        elif (found.heads(model, arm) / "card.json").exists():
            _, card, ledger = context.load_arm(found, model, arm)
            heads_sha256 = card["heads_sha256"]
        else:
            continue
        where = f"results file '{schema.stem(document)}.json'"
        if document["model"].get("heads_sha256") != heads_sha256:
            raise errors.StoreError(errors.describe("results of other heads", where, "the digest of the heads in the workdir", "another; audit again"))
        if document["model"]["dp"] != context.spent(ledger):
            raise errors.StoreError(errors.describe("privacy of the heads", where, "what their ledger says", "something else; audit again"))
        if ledger is not None:
            ledgers[f"heads/{model}/{arm}/{ledger_lib.FILE_NAME}"] = ledger
    return ledgers


def describe(report: Report) -> str:
    """Returns what was written, or what was compared."""
    if report.checked:
        return f"{report.checked:,} numbers recomputed from results files, Parquet and ledgers: all agree"
    return f"{report.table}\n\npage: {report.page}"


def headline(documents: list[dict[str, Any]], pool: int) -> str:
    """Returns the page's main figures as text: per dataset, models in rising specialisation, members of ensembles, then the other heads.

    Recall@1 at the dataset's largest pool up to `pool`, the same at N = 100 (or the smallest pool), among label twins with
    the same queries in random pools beside it, and the probe.
    """
    evidence = evidence_lib.Evidence(documents, {}, pool)
    rows: list[tuple[str, ...]] = []
    for dataset in evidence.datasets:
        large = evidence.headline(dataset) or "full"
        small, matched = _beside(evidence, dataset, large), evidence.matched_pool(dataset)
        sizes = [size for size in (small, large) if size is not None]
        rows.append(
            (
                dataset,
                "heads",
                *[f"Recall@1, {_size(size)}" for size in sizes],
                *[""] * (2 - len(sizes)),
                "lift",
                f"label twins only, {_size(matched)}",
                "probe AUROC",
            )
        )
        for row in evidence.rows:
            if evidence.file(row, dataset) is None:
                continue
            cells = [_shown(evidence.recall(row, dataset, size), interval=size == large) for size in sizes] + [""] * (2 - len(sizes))
            twins, paired = (evidence.recall(row, dataset, matched, stratum) for stratum in (MATCHED, PAIRED_POOL))
            lift = evidence.single(row, dataset, "times", "lift", large)
            beside = f"{_shown(twins)} ({_shown(paired)} random)" if twins.value else "-"
            rows.append((row.model, row.head, *cells, lift.text if lift else "-", beside, _shown(evidence.probe(row, dataset))))
        first = next(row for row in evidence.rows if evidence.file(row, dataset))
        chances = [evidence.single(first, dataset, "chance", "chance", size) for size in sizes]
        shown = [chance.text if chance else "-" for chance in (*chances, evidence.single(first, dataset, "chance", "chance", matched, MATCHED))]
        rows.append(("chance", "", *shown[:-1], *[""] * (2 - len(sizes)), f"1{TIMES}", shown[-1], "0.5"))
        rows.append(())
    widths = [max(len(row[column]) for row in rows if row) for column in range(7)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows).rstrip()


def _beside(evidence: evidence_lib.Evidence, dataset: str, large: int | str) -> int | None:
    """Returns the pool size shown beside the headline one, so that datasets of different sizes can be compared."""
    pools = [size for size in evidence.pools(dataset) if large == "full" or size < int(large)]
    return max((size for size in pools if size <= COMPARED), default=min(pools, default=None))


def _size(pool: int | str | None) -> str:
    return f"N={pool:,}" if isinstance(pool, int) else str(pool or "none")


def _shown(cell: evidence_lib.Cell, interval: bool = False) -> str:
    if cell.value is None:
        return "-"
    ends = f" [{cell.low.text}, {cell.high.text}]" if interval and cell.low and cell.high else ""
    return f"{cell.value.text}{ends}"


def _recomputed(path: pathlib.Path) -> int:
    found = result.recompute(path)
    if found["mismatches"]:
        where, _, what = found["mismatches"][0].partition(": ")
        raise errors.StoreError(
            errors.describe("number does not come out again", f"results file {path.name!r} at {where}", "the value rebuilt from its Parquet", what)
        )
    return int(found["numbers"])
