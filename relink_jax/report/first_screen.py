"""The page's first screen: the one sentence with the best attack's figure, and the warning where plain cosine alone would mislead."""

import dataclasses

from relink_jax.report import attackers, values
from relink_jax.report.evidence import BEST, EMPTY, Cell, Evidence, Row
from relink_jax.report.words import Fragments, Strong, guarantee, head_name, must, with_interval


@dataclasses.dataclass(frozen=True)
class Warning:
    """A box on the first screen: its heading and one paragraph per finding."""

    heading: str
    body: tuple[Fragments, ...]


def finding(evidence: Evidence) -> Fragments:
    """Returns the one sentence that opens the page: linkage by the best attack before, after the mitigation and by noise alone, and the price."""
    dataset, row, after = evidence.datasets[0], evidence.subject, evidence.mitigation
    pool: int | str = evidence.headline(dataset) or "full"
    before = strongest(evidence, row, dataset, pool)
    if before.value is None:
        return ["No Recall@1 of ", row.model, " was recorded on ", dataset, "."]
    size, chance = (must(evidence.single(row, dataset, kind, field, pool)) for kind, field in (("count", "N"), ("chance", "chance")))
    how = attackers.best_name(evidence, row, dataset)
    subject: Fragments = [f"the best attack on {row.model} (", *how, ") links "] if how else [f"{row.model} links "]
    cosine = _beside(evidence, row, dataset, pool)
    sentence: Fragments = ["At N = ", size, " candidates, ", *subject, *with_interval(before, True), " of the images to their report (chance ", chance]
    sentence += [", lift ", _lift(evidence, row, dataset, pool), *(["; plain cosine ", *cosine] if cosine else []), ")"]
    if after is not None and strongest(evidence, after, dataset, pool).value is not None:
        sentence += _after(evidence, after, dataset, pool)
    sentence += _noise(evidence, dataset, pool)
    return [*sentence, *_price(evidence, dataset), "."]


def warnings(evidence: Evidence) -> list[Warning]:
    """Returns the boxes of the first screen; none where plain cosine does not mislead about any mitigation."""
    found = attackers.exposures(evidence)
    if not found:
        return []
    lead: Fragments = ["Judged by plain cosine alone, the heads below look safer than they are. Read the figures of the best attack."]
    return [Warning("Plain cosine is fooled", (lead, *(_exposure(evidence, one) for one in found)))]


def strongest(evidence: Evidence, row: Row, dataset: str, pool: int | str) -> Cell:
    """Returns Recall@1 by the best attack, by plain cosine where no other was tried."""
    cell = evidence.recall(row, dataset, pool, attack=BEST)
    return cell if cell.value is not None else evidence.recall(row, dataset, pool)


def _exposure(evidence: Evidence, one: attackers.Exposure) -> Fragments:
    file = evidence.file(one.row, one.dataset) or ""
    how = "chosen on calibration patients" if one.chosen else "the strongest of those tried"
    control = " (a control)" if one.row.head in attackers.CONTROLS else ""
    size = must(evidence.single(one.row, one.dataset, "count", "N", one.pool))
    body: Fragments = [f"{head_name(one.row.head)[:1].upper()}{head_name(one.row.head)[1:]}{control} on {one.dataset}, N = ", size, ": plain cosine links "]
    body += [*with_interval(one.by_cosine), " and sees ", one.cosine_removed, " of the linkage above chance removed; "]
    body += [*attackers.name(evidence, file, one.place), f", {how}, links ", *with_interval(one.by_attack, True), " from the same embeddings, so that "]
    gone = one.attack_removed.value is not None and one.attack_removed.value > 0
    return [*body, *([one.attack_removed, " is removed"] if gone else ["nothing is removed"]), " (chance ", one.chance, ")."]


def _after(evidence: Evidence, after: Row, dataset: str, pool: int | str) -> Fragments:
    changed = "after DP-SGD on its projection heads" if after.head == "dp" else f"with {head_name(after.head)}"
    told: Fragments = [f"; {changed}", *guarantee(evidence, after, dataset), ", ", *with_interval(strongest(evidence, after, dataset, pool), True)]
    how, cosine = attackers.best_name(evidence, after, dataset), _beside(evidence, after, dataset, pool)
    told += [" by the best attack (", *how, *(["; plain cosine ", *cosine] if cosine else []), "; "] if how else [" ("]
    return [*told, _lift(evidence, after, dataset, pool), " chance remains)"]


def _noise(evidence: Evidence, dataset: str, pool: int | str) -> Fragments:
    noise = evidence.arm("noise_only")
    how: Fragments = attackers.best_name(evidence, noise, dataset) if noise is not None else []
    alone, draws, _ = evidence.redraws(dataset, pool)
    said = "; with noise of the same size and no data, "
    if noise is not None and how:
        return [said, *with_interval(strongest(evidence, noise, dataset, pool), True)]
    if alone.value is not None:
        return [said, Strong(alone.value), " (mean of ", must(draws), " draws)"]
    return [said, *with_interval(evidence.recall(noise, dataset, pool), True)] if noise is not None else []


def _price(evidence: Evidence, dataset: str) -> Fragments:
    """Returns what macro AUROC goes from and to, zero-shot where it was measured and by the linear probe."""
    arms = [one for one in (evidence.subject, evidence.mitigation) if one is not None]
    told: Fragments = []
    for task, named in (("zero_shot", "zero-shot macro AUROC"), ("probe", "a linear probe's macro AUROC")):
        found = [evidence.probe(one, dataset, task=task).value for one in arms]
        if len(found) == 2 and found[0] is not None and found[1] is not None:
            told += [" and " if told else "; and ", f"{named} goes from " if not told else f"{named} from ", Strong(found[0]), " to ", Strong(found[1])]
    return told


def _beside(evidence: Evidence, row: Row, dataset: str, pool: int | str) -> Fragments:
    """Returns plain cosine's Recall@1 where the best attack is another one; empty otherwise."""
    place = evidence.attack_at(evidence.file(row, dataset), BEST)
    cell = evidence.recall(row, dataset, pool) if place else EMPTY
    return [] if cell.value is None else [cell.value]


def _lift(evidence: Evidence, row: Row, dataset: str, pool: int | str) -> str | values.Number:
    best = evidence.single(row, dataset, "times", "lift", pool, attack=BEST)
    return must(best if best is not None else evidence.single(row, dataset, "times", "lift", pool))
