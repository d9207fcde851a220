"""The results of one run arranged for the page: which models, head arms and datasets there are, and their numbers as cells.

The page's order is fixed here: held-out datasets before external ones, models in rising specialisation with their original
heads (the ladder), then the members of ensembles, each by itself, then the other head arms of the mitigated model.

Numbers of an attack are asked for by `attack`: None is plain cosine over the document's own metrics, BEST the attack that calibration
patients chose, an int its place among the document's attacks. A document without attacks has no number of any but plain cosine.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.report import schema, values

OTHER = "other_patient"
MATCHED = "label_matched"
PAIRED_POOL = "other_patient@label_matched"
BEST = "best"
COMPARISONS = "results/comparisons.json"
_BASELINES = ("original", "none")
_ARM_ORDER = ("dp", "noise_only", "random")
_NOISE, _REDRAW = "noise_only", re.compile(r"noise_only_\d+")
_ENOUGH = 0.25


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number with its interval; `value` is None where the results have no such entry."""

    value: values.Number | None = None
    low: values.Number | None = None
    high: values.Number | None = None


EMPTY = Cell()


@dataclasses.dataclass(frozen=True)
class Row:
    """One audited thing: a model with one set of heads."""

    model: str
    head: str
    rung: int | None

    @property
    def baseline(self) -> bool:
        """Whether these are the heads the model came with."""
        return self.head in _BASELINES


class Evidence:
    """Index over results documents; every number it hands out is registered in `book`."""

    def __init__(
        self, results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], headline_pool: int, comparisons: dict[str, Any] | None = None, *,
        prefix: str = "", book: values.Book | None = None,
    ) -> None:  # fmt: skip
        """Indexes one run's documents. With `book`, whose documents have them under names that begin with `prefix`, several runs share one."""
        if not results:
            raise errors.StoreError(errors.describe("results missing", "report", "at least one results document", "none"))
        self.results = schema.ordered(list(results))
        self.ledgers = dict(sorted(ledgers.items()))
        self.files = {(r["model"]["name"], r["model"]["head"], r["data"]["name"]): f"{prefix}results/{schema.stem(r)}.json" for r in self.results}
        self.documents = {f"{prefix}{name}": one for name, one in documents_of(self.results, self.ledgers, comparisons).items()}
        self.book = values.Book(self.documents) if book is None else book
        self.headline_pool = headline_pool
        names = {r["data"]["name"]: external(r) for r in self.results}
        self.datasets = sorted(names, key=lambda name: (names[name], name))
        rows = {(r["model"]["name"], r["model"]["head"]): Row(r["model"]["name"], r["model"]["head"], r["model"].get("specialisation")) for r in self.results}
        self.ensembles = {r["model"]["name"]: r["model"]["ensemble"] for r in self.results if "ensemble" in r["model"]}
        members = {name: place for one in self.ensembles.values() for place, name in enumerate(one["members"])}
        baselines = [row for row in rows.values() if row.baseline]
        self.ladder = [row for row in baselines if row.model not in members]
        self.members = sorted((row for row in baselines if row.model in members), key=lambda row: members[row.model])
        arms = [row for row in rows.values() if not row.baseline and not _REDRAW.fullmatch(row.head)]
        self._noise = [row for row in rows.values() if row.head == _NOISE or _REDRAW.fullmatch(row.head)]
        self.arms = sorted(arms, key=lambda row: (row.model, _ARM_ORDER.index(row.head) if row.head in _ARM_ORDER else len(_ARM_ORDER), row.head))

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row in the page's order, without further draws of the noise-only heads."""
        return (*self.ladder, *self.members, *self.arms)

    @property
    def subject(self) -> Row:
        """The row of the headline: the mitigated model's own heads, else the last rung of the ladder."""
        mitigated = self.arms[0].model if self.arms else None
        chosen = [row for row in (*self.ladder, *self.members) if row.model == mitigated]
        return (chosen or self.ladder or self.arms)[-1]

    @property
    def mitigation(self) -> Row | None:
        """The heads that are meant to protect the subject's model: DP-SGD's, else the first that are no control; None where there are none."""
        mine = [row for row in self.arms if row.model == self.subject.model and row.head not in _ARM_ORDER[1:]]
        return mine[0] if mine else None

    def arm(self, head: str) -> Row | None:
        """Returns the subject's row with other heads, None when that arm was not run."""
        return next((row for row in self.arms if row.head == head and row.model == self.subject.model), None)

    def redraws(self, dataset: str, pool: int | str | None) -> tuple[Cell, values.Number | None, values.Number | None]:
        """Returns Recall@1 over all draws of the noise-only heads, how many there are, and the share of the DP fall they explain.

        The cell holds the mean and the 95% prediction interval for one more draw; it is empty with fewer than two draws. The
        share is (before - mean) / (before - DP), and None where the DP heads did not lower Recall@1.
        """
        model = self.subject.model
        files = [self.file(row, dataset) for row in self._noise if row.model == model]
        sources = [(file, f"{at}/value") for file in files if file and (at := self.pointer(file, "recall", pool=pool))]
        if len(sources) < 2:
            return EMPTY, None, None
        label = f"Recall@1 of noise-only heads of {model}, {dataset}, N={pool}"
        mean = self.book.number("percent", f"{label}, mean of draws", *sources, formula="mean")
        ending = values.end_kind("percent", mean.value or 0.0)
        low, high = (self.book.number(ending, f"{label}, {end} end for another draw", *sources, formula=f"another_{end}") for end in ("low", "high"))
        count, share = self.book.number("count", f"{label}, draws", *sources, formula="count"), None
        ends = [self.file(row, dataset) if row else None for row in (self.subject, self.arm("dp"))]
        pair = [(file, f"{at}/value") for file in ends if file and (at := self.pointer(file, "recall", pool=pool))]
        if len(pair) == 2 and values.resolve(self.documents[pair[0][0]], pair[0][1]) > values.resolve(self.documents[pair[1][0]], pair[1][1]):
            share = self.book.number("share", f"{label}, share of the DP fall", *pair, *sources, formula="explained")
        return Cell(mean, low, high), count, share

    def redraw(self, name: str) -> bool:
        """Returns whether a file name is that of a further draw of the noise-only heads, or of its ledger."""
        return _REDRAW.search(name) is not None

    def file(self, row: Row, dataset: str) -> str | None:
        """Returns the results file of a row on a dataset, None when it was not audited there."""
        return self.files.get((row.model, row.head, dataset))

    def document(self, dataset: str) -> tuple[str, dict[str, Any]]:
        """Returns (file, document) of the first row audited on `dataset`, for what all rows there share."""
        file = next(self.files[key] for key in self.files if key[2] == dataset)
        return file, self.documents[file]

    def pools(self, dataset: str) -> list[int]:
        """Returns the pool sizes N audited on `dataset`, without the full database, rising; at most powers of ten when many."""
        entries = self.document(dataset)[1]["metrics"]
        found = sorted(
            {m["N"] for m in entries if m["name"] == "recall" and m["k"] == 1 and not m["full"] and m["stratum"] == OTHER and m["direction"] == "i2r"}
        )
        tens = [pool for pool in found if str(pool).strip("0") == "1"]
        return tens if len(found) > 5 and tens else found

    def headline(self, dataset: str) -> int | None:
        """Returns the largest pool size on `dataset` up to the configured headline pool; None for the full database only."""
        pools = self.pools(dataset)
        return max([pool for pool in pools if pool <= self.headline_pool] or pools[:1], default=None)

    def matched_pool(self, dataset: str, stratum: str = MATCHED, row: Row | None = None) -> int | None:
        """Returns the largest matched pool size for which a quarter of the queries is eligible, else the one with most; of the first row audited, or of `row`."""
        document = self.document(dataset)[1] if row is None else self.documents.get(self.file(row, dataset) or "", {"metrics": []})
        entries = [m for m in document["metrics"] if _is(m, "recall", 1, stratum, "i2r") and not m["full"] and m["value"] is not None]
        shares = {m["N"]: m["n_eligible_share"] or 0.0 for m in entries}
        enough = [pool for pool, share in shares.items() if share >= _ENOUGH]
        return max(enough) if enough else max(shares, key=lambda pool: shares[pool], default=None)

    def attack_at(self, file: str | None, attack: str | int) -> int | None:
        """Returns the place of an attack among a document's; None where it was not tried."""
        tried = self.documents[file].get("attacks", []) if file else []
        if isinstance(attack, int):
            return attack if attack < len(tried) else None
        return next((place for place, one in enumerate(tried) if one["selected"]), None)

    def pointer(
        self, file: str | None, name: str, *, k: int | None = 1, pool: int | str | None = None, stratum: str = OTHER, direction: str = "i2r",
        attack: str | int | None = None,
    ) -> str | None:  # fmt: skip
        """Returns the JSON pointer of a metric; `pool` is N, or 'full', or None for metrics without a pool."""
        place = None if attack is None else self.attack_at(file, attack)
        if file is None or (attack is not None and place is None):
            return None
        entries = self.documents[file]["metrics"] if place is None else self.documents[file]["attacks"][place]["metrics"]
        for index, entry in enumerate(entries):
            fits = (entry["full"] if pool == "full" else (entry["N"] == pool and not entry["full"])) if pool is not None else True
            if _is(entry, name, k, stratum, direction) and fits:
                return f"/metrics/{index}" if place is None else f"/attacks/{place}/metrics/{index}"
        return None

    def cell(self, file: str | None, at: str | None, kind: str, label: str, field: str = "value") -> Cell:
        """Returns the number at `at`/`field` with the interval at `at`/ci when there is one."""
        if file is None or at is None:
            return EMPTY
        number = self.book.number(kind, label, (file, f"{at}/{field}"))
        if number.value is None:
            return Cell(number)
        interval = values.resolve(self.documents[file], at).get("ci")
        if interval is None or interval["low"] is None or interval["high"] is None:
            return Cell(number)
        ending = values.end_kind(kind, number.value)
        ends = [self.book.number(ending, f"{label}, {end} end of the interval", (file, f"{at}/ci/{end}")) for end in ("low", "high")]
        return Cell(number, *ends)

    def recall(self, row: Row, dataset: str, pool: int | str | None, stratum: str = OTHER, direction: str = "i2r", attack: str | int | None = None) -> Cell:
        """Returns Recall@1 of a row with its interval."""
        file = self.file(row, dataset)
        at = self.pointer(file, "recall", pool=pool, stratum=stratum, direction=direction, attack=attack)
        return self.cell(file, at, "percent", f"Recall@1, {describe_row(row)}, {dataset}, {direction}, {stratum}, N={pool}{self._by(file, attack)}")

    def single(
        self, row: Row, dataset: str, kind: str, field: str, pool: int | str | None, stratum: str = OTHER, attack: str | int | None = None
    ) -> values.Number | None:
        """Returns one field (N, chance, lift, log2_lift, n_eligible_share, ...) of a row's Recall@1 entry."""
        file = self.file(row, dataset)
        at = self.pointer(file, "recall", pool=pool, stratum=stratum, attack=attack)
        if file is None or at is None:
            return None
        label = f"{field} of Recall@1, {describe_row(row)}, {dataset}, {stratum}, N={pool}{self._by(file, attack)}"
        return self.book.number(kind, label, (file, f"{at}/{field}"))

    def bits(self, row: Row, dataset: str, pool: int | str | None, stratum: str = OTHER, attack: str | int | None = None) -> Cell:
        """Returns log2 lift in bits with its interval, from the lift's where recorded and else from Recall@1's."""
        file = self.file(row, dataset)
        at = self.pointer(file, "recall", pool=pool, stratum=stratum, attack=attack)
        if file is None or at is None:
            return EMPTY
        label = f"log2 lift, {describe_row(row)}, {dataset}, {stratum}, N={pool}{self._by(file, attack)}"
        number = self.book.number("bits", label, (file, f"{at}/log2_lift"))
        interval = values.resolve(self.documents[file], at)["ci"]
        if number.value is None or interval is None:
            return Cell(number)
        ends = []
        for end in ("low", "high"):
            sources = [(file, f"{at}/ci/lift_{end}")] if interval.get(f"lift_{end}") is not None else [(file, f"{at}/ci/{end}"), (file, f"{at}/chance")]
            formula = "log2" if len(sources) == 1 else "bits"
            ends.append(self.book.number("bits_end", f"{label}, {end} end of the interval", *sources, formula=formula))
        return Cell(number, *ends)

    def _by(self, file: str | None, attack: str | int | None) -> str:
        place = None if file is None or attack is None else self.attack_at(file, attack)
        if file is None or place is None:
            return ""
        chosen = self.documents[file]["attacks"][place]
        return f", by {chosen['name']}" + (f" on {chosen['pairs']} pairs" if chosen.get("pairs") else "")

    def auc(self, row: Row, dataset: str) -> Cell:
        """Returns AUC within query with its interval."""
        file = self.file(row, dataset)
        return self.cell(file, self.pointer(file, "auc_within_query", k=None), "auroc", f"AUC within query, {describe_row(row)}, {dataset}")

    def probe_at(self, row: Row, dataset: str, features: str | None = None, task: str = "probe") -> tuple[str | None, str | None]:
        """Returns (file, pointer) of a task's entry (probe, report_probe, zero_shot): of the row's own head, or of `features` such as pre_head."""
        file = self.file(row, dataset)
        wanted = (features,) if features else (row.head, "post_head")
        for index, entry in enumerate(self.documents[file]["utility"].get(task, ()) if file else ()):
            if entry["features"] in wanted:
                return file, f"/utility/{task}/{index}"
        return file, None

    def probe(self, row: Row, dataset: str, features: str | None = None, task: str = "probe") -> Cell:
        """Returns macro AUROC of the linear probe, or of another task, with its interval."""
        file, at = self.probe_at(row, dataset, features, task)
        return self.cell(file, at, "auroc", f"{task} macro AUROC, {features or 'after the head'}, {describe_row(row)}, {dataset}", "macro_auroc")

    def paired(self, row: Row, other: Row, dataset: str, pool: int | str | None, form: str = "difference", attack: str = "cosine") -> Cell:
        """Returns how Recall@1 of `row` differs from that of `other`, with its paired interval, if recorded.

        Forms: difference (percentage points, `row` minus `other`), reduction (share of `other`'s), bits_removed. Under attack BEST each
        side has its own best attack.
        """
        file = self.file(row, dataset)
        against = f"{other.model}__{other.head}__{dataset}"
        label = f"Recall@1, {describe_row(row)} against {describe_row(other)}, {dataset}, N={pool}, {form}, {attack}"
        for index, entry in enumerate(self.documents[file].get("paired", ()) if file else ()):
            reference = entry["metric_ref"]
            at_pool = reference.get("full", False) if pool == "full" else (reference.get("N") == pool and not reference.get("full", False))
            if (
                file is None
                or entry.get("attack", "cosine") != attack
                or entry["against"] != against
                or not at_pool
                or not _is(reference, "recall", 1, OTHER, "i2r")
            ):
                continue
            if form == "difference":
                return self.cell(file, f"/paired/{index}", "points", label, "difference")
            kind = {"reduction": "percent", "bits_removed": "bits"}[form]
            if not values.has(entry, f"/{form}/high") or None in (entry[form]["value"], entry[form]["low"], entry[form]["high"]):
                return EMPTY
            ends = (values.end_kind(kind, entry[form]["value"]), "low"), (values.end_kind(kind, entry[form]["value"]), "high")
            numbers = [self.book.number(shown, f"{label}, {field}", (file, f"/paired/{index}/{form}/{field}")) for shown, field in ((kind, "value"), *ends)]
            return Cell(*numbers)
        return EMPTY

    def paired_at(self, row: Row, dataset: str, task: str = "probe") -> tuple[str | None, str | None]:
        """Returns (file, pointer) of what compares a task's macro AUROC of the row's heads with that of the original ones."""
        file = self.file(row, dataset)
        for index, entry in enumerate(self.documents[file]["utility"].get("paired", ()) if file else ()):
            if entry.get("task", "probe") == task and entry["features"] == row.head and entry["against"] in _BASELINES:
                return file, f"/utility/paired/{index}"
        return file, None

    def paired_probe(self, row: Row, dataset: str, task: str = "probe") -> Cell:
        """Returns the row's macro AUROC minus that of the original heads with its paired interval, if recorded."""
        file, at = self.paired_at(row, dataset, task)
        return self.cell(file, at, "auroc_difference", f"{task} macro AUROC, {describe_row(row)} minus original, {dataset}", "difference")


def documents_of(results: Sequence[dict[str, Any]], ledgers: Mapping[str, dict[str, Any]], comparisons: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns all documents the page is made of by workdir-relative file name."""
    compared = {} if comparisons is None else {COMPARISONS: comparisons}
    return {f"results/{schema.stem(result)}.json": result for result in results} | dict(ledgers) | compared


def external(result: Mapping[str, Any]) -> bool:
    """Returns whether a document's dataset comes from outside the site the heads were trained on."""
    data = result["data"]
    return bool(data.get("external", "external" in data["name"]))


def describe_row(row: Row) -> str:
    """Returns the short unambiguous name of a row."""
    return f"{row.model} ({row.head})"


def _is(entry: Mapping[str, Any], name: str, k: int | None, stratum: str, direction: str) -> bool:
    return bool(entry["name"] == name and entry["k"] == k and entry["stratum"] == stratum and entry["direction"] == direction)
