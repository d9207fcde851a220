"""The report stage: the page from the results files, or a check that every number on it follows from them; and several runs on one page."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import result
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.report import attackers, runs, schema
from relink_jax.report import check as check_lib
from relink_jax.report import evidence as evidence_lib
from relink_jax.report import page as page_lib
from relink_jax.report.evidence import MATCHED, PAIRED_POOL
from relink_jax.stages import context, ensembles, together
from relink_jax.store import files
from relink_jax.store import workdir as workdir_lib

TIMES = "\N{MULTIPLICATION SIGN}"
_OPTIONAL = (5, 7)  # columns of the headline table that go where no run has them: best attack, zero-shot
COMPARED = 100  # pool size shown for every dataset beside the headline one
RUNS_PAGE = "runs.html"


@dataclasses.dataclass(frozen=True)
class Report:
    """The headline table as text, the page, and what a check compared (0 numbers when only written)."""

    table: str
    page: pathlib.Path
    checked: int = 0


def run(config: config_lib.RunConfig, workdir: str, words: Sequence[str] = (), check: bool | None = None, page: str | None = None) -> Report | None:
    """Writes report/index.html, report/summary.html and report/numbers.json, or with `check` recomputes them and compares.

    The check rebuilds every metric and interval from the per-query Parquet, every ledger's epsilon from its events, and
    every number of the pages from the results files. Returns None on a process that waited for process 0.

    Args:
        words: workdirs of runs to put on one page instead, see `compare`.
        page: file of that page.

    Raises: UsageError: a page without runs, or runs beside a workdir; StoreError: no results, damaged ones, or a number that does not come out again (names it).
    """
    if words:
        if workdir:
            raise errors.UsageError(errors.describe("flag --workdir", "'relink report RUN ...'", "runs only", "a workdir too"))
        return together.by_first("report", lambda: compare(words, pathlib.Path(page or RUNS_PAGE), bool(check)))
    if page:
        raise errors.UsageError(errors.describe("flag --page", "'relink report'", "the workdirs of runs beside it", "none"))
    return context.led(config, workdir, "report", lambda found: _own(config, found, bool(check)))


def _own(config: config_lib.RunConfig, found: workdir_lib.Workdir, check: bool) -> Report:
    """Writes or checks the page of one run."""
    documents = schema.load_results(found.results)
    ledgers, comparisons = _ledgers(found, documents), _comparisons(found.results)
    table = headline(documents, config.report.headline_pool)
    if not check:
        command = f"relink report --check --workdir={found.root.name}"
        written = page_lib.render(documents, ledgers, found.report, config.report.title, config.report.headline_pool, command, comparisons)
        return Report(table, written)
    compared = sum(_recomputed(found.results / f"{schema.stem(document)}.json") for document in documents)
    compared += check_lib.check(documents, ledgers, found.report, comparisons)
    return Report(table, found.report / page_lib.PAGE, compared)


def compare(workdirs: Sequence[str], path: pathlib.Path, check: bool = False) -> Report:
    """Writes one page over the results of several workdirs, or with `check` recomputes every number of it.

    Runs are called after their directories, with a number where two are alike. Only results are read; nothing in a workdir changes.

    Raises: UsageError: no such directory; StoreError: no results, damaged ones, or a number that does not come out again.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for one in workdirs:
        root = pathlib.Path(one)
        if not root.is_dir():
            raise errors.UsageError(errors.describe("run", "'relink report RUN ...'", "the workdir of a run", f"no directory {root.name!r}"))
        alike = sum(name == root.resolve().name or name.startswith(f"{root.resolve().name}-") for name in found)
        found[f"{root.resolve().name}-{alike + 1}" if alike else root.resolve().name] = schema.load_results(root / "results")
    if check:
        return Report("", path, runs.check_runs(found, path))
    names = " ".join(pathlib.Path(one).name for one in workdirs)
    return Report(f"{len(found)} runs side by side", runs.render(found, path, check_command=f"relink report {names} --page={path.name} --check"))


def _comparisons(results: pathlib.Path) -> dict[str, Any] | None:
    """Returns what the audit found in comparing models, None where it compared none."""
    path = results / "comparisons.json"
    return files.read_object(path, {"schema_version": str, "datasets": list}) if path.exists() else None


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

    Recall@1 at the dataset's largest pool up to `pool`, the same by the best attack, and by plain cosine at N = 100 (or the smallest pool), among
    label twins with the same queries in random pools beside it, zero-shot and the probe.
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
                f"best attack, {_size(large)}",
                f"label twins only, {_size(matched)}",
                "zero-shot",
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
            best = evidence.recall(row, dataset, large, attack=evidence_lib.BEST)
            named = str(next(iter(attackers.best_name(evidence, row, dataset)), "")).removesuffix(" fitted on ")
            found = f"{_shown(best)} ({named})" if best.value else "-"
            priced = [_shown(one) for one in (evidence.probe(row, dataset, task="zero_shot"), evidence.probe(row, dataset))]
            rows.append((row.model, row.head, *cells, lift.text if lift else "-", found, beside, *priced))
        first = next(row for row in evidence.rows if evidence.file(row, dataset))
        chances = [evidence.single(first, dataset, "chance", "chance", size) for size in sizes]
        shown = [chance.text if chance else "-" for chance in (*chances, evidence.single(first, dataset, "chance", "chance", matched, MATCHED))]
        rows.append(("chance", "", *shown[:-1], *[""] * (2 - len(sizes)), f"1{TIMES}", shown[-2], shown[-1], "0.5", "0.5"))
        rows.append(())
    told = [row for row in rows if row and row[1] not in ("heads", "")]
    rows = [tuple(cell for place, cell in enumerate(row) if place not in _OPTIONAL or any(one[place] != "-" for one in told)) for row in rows]
    widths = [max(len(row[column]) for row in rows if row) for column in range(len(rows[0]))]
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
