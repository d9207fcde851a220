"""The result of an audit: read it in Python, print it, save it as JSON beside two Parquet tables, rebuild it from those.

The JSON follows results schema 1.0: run, data, model, protocol, counts, metrics, by_exposure, utility, warnings, checks, and what `sections`
adds. It holds no NaN: an undefined number is null and a warning says why. It names no record; the tables do, by pseudonym, and stay local.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import comparison, metrics, new_candidates, queries, sections
from relink_jax.audit import per_image as per_image_lib
from relink_jax.retrieval.counted import OTHER_PATIENT, DirectionCounts
from relink_jax.store import digests, files, tables

SCHEMA_VERSION = "1.0"
PER_QUERY, PER_IMAGE = "per_query", "per_image"
_SUFFIXES = {PER_QUERY: ".parquet", PER_IMAGE: ".images.parquet"}


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """One audited set of embeddings.

    Attributes:
        queries: per-query table of each direction ('i2r', 'r2i').
        metrics: entries of the results schema, each with chance, bounds, counts of queries and patients, and interval.
        protocol, data: how and on what it was measured. checks: float64 recheck and tie sensitivity. warnings: sentences.
        top: per direction (candidate numbers int32 [Q, k], scores float32 [Q, k]), score descending then number ascending, over
            the whole database including the query's own and same-patient records; -1 past its end.
        own_score: per direction, score of the truth, float32 [Q].
        candidate_key: per direction, pseudonym of each candidate number, object array of str.
        per_image: what is known of image queries beyond counts. attacks: every attack tried, without figures. given: what no table
            can give back.
    """

    queries: dict[str, queries.Queries]
    metrics: list[dict[str, Any]]
    protocol: dict[str, Any]
    data: dict[str, Any]
    checks: dict[str, Any]
    warnings: list[str]
    top: dict[str, tuple[np.ndarray, np.ndarray]]
    own_score: dict[str, np.ndarray]
    candidate_key: dict[str, np.ndarray]
    per_image: per_image_lib.PerImage | None = None
    attacks: Sequence[Mapping[str, Any]] = ()
    given: sections.Given = dataclasses.field(default_factory=sections.Given)

    @property
    def selected(self) -> str:
        """Label of the best attack, as calibration patients chose it."""
        return selected(self.attacks)

    @property
    def counts(self) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        """Per-query integers: {(direction, stratum): {'M', 'g', 't'}}, each int64 [Q]."""
        return {(direction, name): dataclasses.asdict(value) for direction, table in self.queries.items() for name, value in table.strata.items()}

    def metric(self, name: str, *, k: int | None = None, pool_size: int | None = None, direction: str = "i2r", stratum: str = OTHER_PATIENT) -> dict[str, Any]:
        """Returns one entry of `metrics`; pool_size None is the full pool (or no pool, for auc_within_query).

        Raises: DataError: it was not measured; lists what was.
        """
        wanted = {"name": name, "k": k, "direction": direction, "stratum": stratum}
        near = [entry for entry in self.metrics if all(entry[field] == value for field, value in wanted.items())]
        for entry in near:
            if entry["N"] is None or (entry["full"] if pool_size is None else entry["N"] == pool_size and not entry["full"]):
                return entry
        measured = (
            sorted({entry["N"] for entry in near if not entry["full"]})
            if near
            else sorted({f"{e['name']}@{e['k']} {e['direction']} {e['stratum']}" for e in self.metrics})
        )
        raise errors.DataError(
            errors.describe("metric not measured", "audit result", f"one of {measured}", f"{name} k={k} pool size {pool_size} {direction} {stratum}")
        )

    def recall(self, k: int, pool_size: int | None = None, direction: str = "i2r", stratum: str = OTHER_PATIENT) -> float:
        """Returns exact expected Recall@k in random pools of any size N, measured or not, from the stored counts.

        The mean is over the queries with at least N - 1 candidates in the stratum; `metric` has the interval of measured sizes.
        Args: pool_size: N, 2 to the largest pool of the direction and stratum; None is each query's full pool. k: 1 to N.
        Raises: DataError: a direction, stratum, N or k outside these data.
        """
        if direction not in self.queries:
            expected = f"one of {', '.join(self.queries)}"
            raise errors.DataError(errors.describe("direction", "recall", expected, repr(direction)) + errors.suggest(str(direction), self.queries))
        return metrics.recall(self.queries[direction], direction, stratum, pool_size, k)

    def table(self) -> str:
        """Returns a plain-text table of every Recall with chance, lift and interval."""
        head = ("direction", "stratum", "N", "k", "recall", "interval", "chance", "lift", "queries", "patients")
        rows = [head]
        for e in self.metrics:
            if e["name"] == "recall":
                size = f"{e['N']} (full)" if e["full"] else str(e["N"])
                interval = f"[{e['ci']['low']:.4f}, {e['ci']['high']:.4f}]"
                rows.append(
                    (
                        e["direction"],
                        e["stratum"],
                        size,
                        str(e["k"]),
                        f"{e['value']:.4f}",
                        interval,
                        f"{e['chance']:.5f}",
                        f"{e['lift']:.2f}",
                        str(e["n_queries"]),
                        str(e["n_patients"]),
                    )
                )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *(f"warning: {warning}" for warning in self.warnings)])

    def to_json(
        self,
        *,
        run: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        utility: Mapping[str, Any] | None = None,
        paired: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """Returns the results JSON; `run`, `data`, `model`, `utility` and `paired` add what only the caller knows."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(run or {}),
            "data": {**self.data, **(data or {})},
            "model": {"name": None, "head": None, "dp": None, "weights_sha256": None, "specialisation": None, **(model or {})},
            "protocol": self.protocol,
            "counts": summarise(self.queries),
            "metrics": self.metrics,
            "paired": [dict(entry) for entry in paired],
            "by_exposure": metrics.by_exposure(self.queries, self.protocol),
            **sections.compute(self.queries, self.per_image, self.protocol, self.attacks, self.given),
            "utility": {"probe": [], **(utility or {})},
            "checks": self.checks,
            "warnings": self.warnings,
        }

    def save(self, path: str | pathlib.Path, **more: Any) -> pathlib.Path:
        """Writes `path`.parquet and `path`.images.parquet (local only), then `path`.json, and returns the JSON's path; `more` as in `to_json`.

        A results JSON therefore never exists without its tables. Files are 0600.

        Raises: UsageError: not the path of a file, or a name too long; StoreError: it cannot be written.
        """
        stem = stem_of(path)
        written = {PER_QUERY: {**queries.to_columns(self.queries), **self._score_columns()}}
        if self.per_image is not None:
            written[PER_IMAGE] = per_image_lib.to_columns(self.per_image)
        described = self.to_json(**more)
        described["files"] = {}
        for kind, columns in written.items():
            table = stem.with_name(stem.name + _SUFFIXES[kind])
            digest = tables.write_table(table, columns, {"relink_jax": f"{kind.replace('_', '-')} counts, schema {SCHEMA_VERSION}"})
            described["files"][kind] = {"name": table.name, "sha256": digest}
        target = stem.with_name(stem.name + ".json")
        files.write_json(target, digests.sealed(described))
        return target

    def _score_columns(self) -> dict[str, list[Any]]:
        """Returns own_score, top_key and top_score beside the other_patient rows of each direction, null elsewhere."""
        columns: dict[str, list[Any]] = {"own_score": [], "top_key": [], "top_score": []}
        for direction, table in self.queries.items():
            keys, (numbers, scores) = self.candidate_key[direction], self.top[direction]
            found = (
                self.own_score[direction].tolist(),
                [keys[row[row >= 0]].tolist() for row in numbers],
                [score[row >= 0].tolist() for row, score in zip(numbers, scores, strict=True)],
            )
            for stratum in table.strata:
                for name, values in zip(columns, found, strict=True):
                    columns[name] += values if stratum == OTHER_PATIENT else [None] * len(table.query_key)
        return columns


def summarise(per_query: Mapping[str, queries.Queries]) -> dict[str, Any]:
    """Returns {direction: {stratum: {n_queries, n_eligible, M: {min, median, max}, tied_queries}}}."""
    out: dict[str, Any] = {}
    for direction, table in per_query.items():
        for name, counted in table.strata.items():
            size = {"min": int(counted.M.min()), "median": float(np.median(counted.M)), "max": int(counted.M.max())}
            out.setdefault(direction, {})[name] = {
                "n_queries": len(counted.M),
                "n_eligible": int((counted.M > 0).sum()),
                "M": size,
                "tied_queries": int((counted.t > 0).sum()),
            }
    return out


def selected(attacks: Sequence[Mapping[str, Any]]) -> str:
    """Returns the label of the attack that calibration patients chose, plain cosine where none was tried."""
    return next((str(one["label"]) for one in attacks if one["selected"]), per_image_lib.COSINE)


@dataclasses.dataclass(frozen=True)
class _Stored:
    """The tables of an audit and the protocol it was measured under, read back from files."""

    queries: dict[str, queries.Queries]
    protocol: dict[str, Any]
    per_image: per_image_lib.PerImage | None
    selected: str


def recompute(json_path: str | pathlib.Path, parquet_path: str | pathlib.Path | None = None, tolerance: float = 1e-9) -> dict[str, Any]:
    """Rebuilds a results JSON from its Parquet files alone, without a device, and compares: metrics, intervals, counts, paired changes, sections.

    Args:
        parquet_path: per-query table; default, the file of the same name beside the JSON; paired changes also read those they are against there.
        tolerance: largest allowed difference, relative above 1.
    Returns: {'numbers': compared, 'max_difference': float, 'mismatches': ['metrics[3].value: ...', ...]}.
    Raises: StoreError: missing, damaged or mismatched files, or a table that is not the one the JSON was written with.
    """
    source = pathlib.Path(json_path)
    stored = files.read_object(source, {"schema_version": str, "protocol": dict, "metrics": list, "counts": dict, "files": dict})
    version = stored["schema_version"]
    if version != SCHEMA_VERSION:
        raise errors.StoreError(errors.describe("unknown schema", f"results file {source.name!r}", f"schema_version {SCHEMA_VERSION}", repr(version)))
    table = pathlib.Path(parquet_path) if parquet_path else source.with_suffix(".parquet")
    try:
        rebuilt = _rebuilt(source, table, stored)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        expected = "a protocol and a table that its numbers can be rebuilt from"
        raise errors.StoreError(errors.describe("results damaged", f"results file {source.name!r}", expected, type(error).__name__)) from error
    found: dict[str, Any] = {"numbers": 0, "max_difference": 0.0, "mismatches": []}
    for section, value in rebuilt.items():
        _compare(section, stored.get(section, []), value, tolerance, found)
    return found


def _rebuilt(source: pathlib.Path, table: pathlib.Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Returns what the tables give under the stored protocol."""
    here = _read(source, table, stored)
    entries = new_candidates.with_intervals(metrics.compute(here.queries, here.protocol)[0], here.queries, here.per_image, here.protocol["bootstrap"]["level"])
    others = {name: _other(source, name, here.protocol) for name in dict.fromkeys(change["against"] for change in stored.get("paired", []))}
    changes = [
        comparison.entry(change["against"], others[change["against"]], here, change["metric_ref"], change["attack"]) for change in stored.get("paired", [])
    ]
    groups = metrics.by_exposure(here.queries, here.protocol)
    described = [{name: value for name, value in one.items() if name not in ("metrics", "gain")} for one in stored.get("attacks", [])]
    further = sections.compute(here.queries, here.per_image, here.protocol, described, sections.given_of(stored))
    return {"metrics": entries, "counts": summarise(here.queries), "paired": changes, "by_exposure": groups, **further}


def _read(source: pathlib.Path, table: pathlib.Path, stored: Mapping[str, Any]) -> _Stored:
    """Returns an audit read back from its tables, after comparing their digests with the JSON's."""
    known, found = stored["files"], {}
    for kind, path in ((PER_QUERY, table), (PER_IMAGE, source.with_name(source.stem + _SUFFIXES[PER_IMAGE]))):
        if kind not in known:
            continue
        found[kind], digest = tables.read_table(path), digests.stored_digest(path)
        if digest != known[kind]["sha256"]:
            raise errors.StoreError(errors.describe("table of another audit", f"file {path.name!r}", f"SHA-256 {known[kind]['sha256'][:12]}", digest[:12]))
    further = per_image_lib.from_columns(found[PER_IMAGE]) if PER_IMAGE in found else None
    return _Stored(queries.from_columns(found[PER_QUERY]), stored["protocol"], further, selected(stored.get("attacks", [])))


def _other(source: pathlib.Path, name: str, protocol: dict[str, Any]) -> _Stored:
    """Returns the audit that changes are against, from the files beside `source`."""
    path = source.with_name(f"{name}.json")
    known = files.read_object(path, {"protocol": dict, "files": dict})
    return dataclasses.replace(_read(path, path.with_suffix(".parquet"), known), protocol=protocol)


def stem_of(path: str | pathlib.Path) -> pathlib.Path:
    """Returns `path` without the suffix .json; `UsageError` unless the files of a result can be named after it."""
    if not isinstance(path, str | os.PathLike):
        raise errors.UsageError(errors.describe("path", "AuditResult.save", "text or a path", type(path).__name__))
    stem = pathlib.Path(path)
    stem = stem.with_suffix("") if stem.suffix == ".json" else stem
    room = files.NAME_BYTES - len(f"{_SUFFIXES[PER_IMAGE]}.sha256")
    length = len(os.fsencode(stem.name))
    if stem.name in ("", "..") or "\0" in str(stem) or length > room:
        found = f"one of {length}" if length > room else f"{stem.name!r}"
        raise errors.UsageError(errors.describe("path", "AuditResult.save", f"the name of a file, of at most {room} bytes", found))
    return stem


def _compare(path: str, stored: Any, rebuilt: Any, tolerance: float, found: dict[str, Any]) -> None:
    if isinstance(stored, dict) and isinstance(rebuilt, dict):
        for name in stored.keys() | rebuilt.keys():
            _compare(f"{path}.{name}", stored.get(name), rebuilt.get(name), tolerance, found)
    elif isinstance(stored, list) and isinstance(rebuilt, list) and len(stored) == len(rebuilt):
        for index, pair in enumerate(zip(stored, rebuilt, strict=True)):
            _compare(f"{path}[{index}]", *pair, tolerance, found)
    elif isinstance(stored, int | float) and isinstance(rebuilt, int | float):
        difference = abs(stored - rebuilt) / max(1.0, abs(stored))
        found["numbers"] += 1
        found["max_difference"] = max(found["max_difference"], difference)
        if difference > tolerance:
            found["mismatches"].append(f"{path}: {stored!r} in the file, {rebuilt!r} rebuilt")
    elif stored != rebuilt:
        found["mismatches"].append(f"{path}: {str(stored)[:40]!r} in the file, {str(rebuilt)[:40]!r} rebuilt")


def tie_sensitivity(counted: DirectionCounts) -> dict[str, float]:
    """Returns full-pool Recall@1 (i2r, other_patient) with the threshold moved by 1e-6 against (`recall1_lo`) and for (`recall1_hi`) the attacker."""
    if counted.near is None:
        raise errors.UnsoundError(errors.describe("no threshold counts", "tie sensitivity", "counts of direction i2r", "none"))
    above, not_below, duplicates = counted.near.T
    low, high = (float(((number == 0) / (duplicates + 1)).mean()) for number in (not_below, above))
    return {"delta": 1e-6, "recall1_lo": low, "recall1_hi": high}
