"""A result of an audit read back from its files, without auditing."""

import pathlib

import numpy as np

from relink_jax import errors
from relink_jax.audit import per_image, queries, result, sections
from relink_jax.store import digests, files, tables

_FIELDS: dict[str, type] = {"protocol": dict, "metrics": list, "data": dict, "checks": dict, "warnings": list, "files": dict}


def intact(path: pathlib.Path) -> bool:
    """Returns whether a results JSON is there with its seal, and its tables beside it with the digests that it names."""
    try:
        stored = files.read_object(path, _FIELDS)
        if not digests.intact(stored):
            return False
        return all(digests.stored_digest(path.with_name(one["name"])) == one["sha256"] for one in stored["files"].values())
    except (errors.StoreError, KeyError, TypeError):
        return False


def load(path: pathlib.Path) -> result.AuditResult:
    """Returns the audit of a results JSON and of its tables; candidates are numbered anew, in order of their pseudonyms.

    Raises: StoreError: missing or damaged files.
    """
    stored = files.read_object(path, _FIELDS)
    found = {kind: tables.read_table(path.with_name(pathlib.PurePath(one["name"]).name)) for kind, one in stored["files"].items()}
    table = queries.from_columns(found[result.PER_QUERY])
    more = {direction: _scores(found[result.PER_QUERY], direction) for direction in table}
    return result.AuditResult(
        queries=table,
        **{name: stored[name] for name in _FIELDS if name != "files"},
        top={direction: one[0] for direction, one in more.items()},
        own_score={direction: one[1] for direction, one in more.items()},
        candidate_key={direction: one[2] for direction, one in more.items()},
        per_image=per_image.from_columns(found[result.PER_IMAGE]) if result.PER_IMAGE in found else None,
        attacks=[{name: value for name, value in one.items() if name not in ("metrics", "gain")} for one in stored.get("attacks", [])],
        given=sections.given_of(stored),
    )


def _scores(columns: dict[str, np.ndarray], direction: str) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Returns ((numbers [Q, k], scores [Q, k]) of the best candidates, own scores [Q], pseudonyms by number)."""
    rows = (columns["direction"].astype(str) == direction) & (columns["stratum"].astype(str) == "other_patient")
    keys, scores = columns["top_key"][rows], columns["top_score"][rows]
    known = np.array(sorted({str(key) for row in keys for key in row}), object)
    number = {key: place for place, key in enumerate(known)}
    k = max(map(len, keys), default=0)
    top_id, top_score = np.full((len(keys), k), -1, np.int32), np.full((len(keys), k), -np.inf, np.float32)
    for row, (names, values) in enumerate(zip(keys, scores, strict=True)):
        top_id[row, : len(names)], top_score[row, : len(names)] = [number[str(key)] for key in names], values
    return (top_id, top_score), columns["own_score"][rows].astype(np.float32), known
