"""Whether linkage rises with specialisation: the run's models against each other on the same queries, kept in results/comparisons.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import order, queries, result, uncertainty, under_attack
from relink_jax.audit.per_image import COSINE
from relink_jax.audit.sample import Sample
from relink_jax.retrieval.counted import I2R
from relink_jax.store import digests, files
from relink_jax.store import workdir as workdir_lib

FILE = "comparisons.json"


def write(found: workdir_lib.Workdir, ladders: Mapping[str, Sequence[tuple[str, result.AuditResult]]]) -> None:
    """Writes the order of models on each data set; `ladders`: audits of the models' own heads in rising specialisation, by data set.

    A data set with fewer than two such models has no order, and without any the file goes.
    """
    datasets = [{"dataset": name, "order": _order(ladder)} for name, ladder in ladders.items() if len(ladder) > 1]
    path = found.results / FILE
    if datasets:
        files.write_json(path, digests.sealed({"schema_version": result.SCHEMA_VERSION, "datasets": datasets}))
    else:
        path.unlink(missing_ok=True)


def _order(ladder: Sequence[tuple[str, result.AuditResult]]) -> dict[str, Any]:
    """Returns the order by Recall@1 of plain cosine in the largest pool that was asked for and fits."""
    first = ladder[0][1]
    names, patient_of = queries.patients(first.queries)
    sample = Sample(patient_of[I2R], len(names), uncertainty.Bootstrap(**first.protocol["bootstrap"]))
    largest = int(first.queries[I2R].strata["other_patient"].M.max(initial=0)) + 1
    size = max((one for one in first.protocol["pool_sizes"] if one <= largest), default=None)
    found = [under_attack.hits(one.queries[I2R], None, COSINE, size) for _, one in ladder]
    rows: np.ndarray = found[0][0]
    values = [values for _, values in found]
    return order.order([name for name, _ in ladder], values, sample, N=size or largest, full=size is None, rows=rows)
