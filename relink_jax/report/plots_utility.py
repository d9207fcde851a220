"""Figure 10: what is left of linkage under the best attack against what is left of use, zero-shot and by a linear probe."""

from relink_jax.report import attackers, figures, figures_scatter, plots
from relink_jax.report.evidence import BEST, Evidence, Row
from relink_jax.report.figures_scatter import Point, Trade
from relink_jax.report.plots import Plot, heads_label, known, triple
from relink_jax.report.words import Fragments

_TASKS = {"zero_shot": "zero-shot macro AUROC", "probe": "linear-probe macro AUROC"}


def every(evidence: Evidence) -> list[Plot]:
    """Returns the trade-off, if there is more than one set of heads to trade."""
    plot = _trade_off(evidence)
    return [plot] if plot is not None else []


def _trade_off(evidence: Evidence) -> Plot | None:
    panels = [panel for dataset in evidence.datasets for task in _TASKS if len((panel := _panel(evidence, dataset, task)).points) > 1]
    if not panels:
        return None
    attacked = any(attackers.tried(evidence, file) for file in evidence.files.values())
    told: Fragments = [
        f"Down is safer, right is more useful. Linkage is counted in bits over chance {'under the best attack' if attacked else 'under plain cosine'}. "
    ]
    told += [
        "Whiskers are intervals over patients; one that runs to the chance line includes no lift at all. A probe is refitted for every head, so it cannot see "
    ]
    told += ["damage that a fixed use of the embeddings would: heads of random numbers show how little it sees."]
    alt = f"Scatter of linkage in bits over chance against macro AUROC for the head arms of {evidence.subject.model}. Values in the tables and in the CSV file."
    records: list[plots.Record] = [(panel.title, panel.x_label, one.label, *one.x, *one.y) for panel in panels for one in panel.points]
    header = ("panel", "use", "heads", "macro AUROC", "macro AUROC low", "macro AUROC high", "bits over chance", "bits low", "bits high")
    draw = lambda phone: figures_scatter.trade_off(panels, phone)  # noqa: E731
    return Plot("trade", "What is left of linkage against what is left of use", told, alt, draw, header, tuple(records))


def _panel(evidence: Evidence, dataset: str, task: str) -> Trade:
    rows = [evidence.subject, *[row for row in evidence.arms if row.model == evidence.subject.model]]
    points = [point for point in (_point(evidence, row, dataset, task) for row in rows) if point is not None]
    before = evidence.probe(evidence.subject, dataset, "pre_head").value if task == "probe" else None
    return Trade(dataset + plots.mark(evidence), _TASKS[task], tuple(points), before.value if before is not None else None)


def _point(evidence: Evidence, row: Row, dataset: str, task: str) -> Point | None:
    pool = evidence.headline(dataset) or "full"
    best = evidence.bits(row, dataset, pool, attack=BEST)
    bits, use = best if best.value is not None else evidence.bits(row, dataset, pool), evidence.probe(row, dataset, task=task)
    return Point(heads_label(row.head), figures.arm_style(row.head), triple(use), triple(bits)) if known(bits, use) else None
