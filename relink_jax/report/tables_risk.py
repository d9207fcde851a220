"""Tables under the figure of who is at risk: groups of patients, and what goes with an image's risk."""

from relink_jax.report.evidence import Evidence, Row
from relink_jax.report.tables import Entry, Line, Table, entry
from relink_jax.report.words import Fragments, head_name


def below(evidence: Evidence) -> tuple[tuple[str | None, Table], ...]:
    """Returns the subgroups of each dataset in the open and its regression in a fold, of the subject's own heads; and the groups after mitigation folded."""
    found: list[tuple[str | None, Table]] = []
    for dataset in evidence.datasets:
        open_table = groups(evidence, evidence.subject, dataset)
        after = groups(evidence, evidence.mitigation, dataset) if evidence.mitigation is not None else None
        odds = regression(evidence, evidence.subject, dataset)
        found += [(None, open_table)] if open_table else []
        found += [(f"The same groups with the {head_name(evidence.mitigation.head)}, {dataset}", after)] if after and evidence.mitigation else []
        found += [(f"What goes with an image's risk: regression on {dataset}", odds)] if odds else []
    return tuple(found)


def groups(evidence: Evidence, row: Row, dataset: str) -> Table | None:
    """Returns the mean risk of each subgroup with its shrunken value; None where no subgroup was measured."""
    file = evidence.file(row, dataset)
    held = evidence.documents[file].get("groups") if file else None
    if file is None or not held or not held["rows"]:
        return None
    columns = ("patients", "images", "mean risk", "shrunken", "p, adjusted")
    by_attribute: dict[str, list[Line]] = {}
    for index, one in enumerate(held["rows"]):
        at, label = f"/groups/rows/{index}", f"{one['attribute']} {one['group']}, {row.model} ({row.head}), {dataset}"
        cells = [Entry([evidence.book.number("count", f"{name}, {label}", (file, f"{at}/{name}"))], (), "") for name in ("n_patients", "n_queries")]
        cells.append(entry(evidence.cell(file, at, "percent", f"mean risk, {label}")))
        cells += [_field(evidence, file, at, one, "shrunken", "percent", label), _field(evidence, file, at, one, "p_adjusted", "small", label)]
        by_attribute.setdefault(one["attribute"].replace("_", " "), []).append(_line(one["group"], cells, columns))
    size = evidence.book.number("count", f"candidates of the groups, {dataset}", (file, "/groups/N"))
    few = evidence.book.number("count", f"fewest patients of a group, {dataset}", (file, "/groups/fewest_patients"))
    hidden = evidence.book.number("count", f"groups not shown, {dataset}", (file, "/groups/suppressed"))
    caption: Fragments = [
        f"Mean risk of an image by group on {dataset}, {row.model}, {head_name(row.head)}, N = ",
        size,
        ". Shrunken: pulled towards the mean of all the more ",
    ]
    caption += ["the fewer patients a group has. Groups with fewer than ", few, " patients are not shown (", hidden, " of them)."]
    return Table(
        caption, "Group", (("", len(columns)),), tuple([name] for name in columns), tuple((name, tuple(lines)) for name, lines in by_attribute.items())
    )


def regression(evidence: Evidence, row: Row, dataset: str) -> Table | None:
    """Returns odds ratios of the risk regression; None where it was not fitted."""
    file = evidence.file(row, dataset)
    held = evidence.documents[file].get("regression") if file else None
    if file is None or not held or not held["terms"]:
        return None
    columns, lines = ("odds ratio", "p, adjusted"), []
    for index, one in enumerate(held["terms"]):
        at, label = f"/regression/terms/{index}", f"{one['name']}, regression, {dataset}"
        odds = _field(evidence, file, at, one, "odds_ratio", "small", label)
        ends = [evidence.book.number("small", f"{label}, {end} end", (file, f"{at}/{end}")) for end in ("low", "high")]
        small: tuple[Fragments, ...] = (["[", ends[0], ", ", ends[1], "]"],) if None not in (one["low"], one["high"]) else ()
        lines.append(_line(one["name"], [Entry(odds.main, small, ""), _field(evidence, file, at, one, "p_adjusted", "small", label)], columns))
    counted = [evidence.book.number("count", f"{name}, regression, {dataset}", (file, f"/regression/{name}")) for name in ("n_queries", "n_patients")]
    caption: Fragments = [
        f"Fractional logistic regression of an image's risk on {dataset}, clustered by patient: ",
        counted[0],
        " images, ",
        counted[1],
        " patients. ",
    ]
    caption += ["An odds ratio above one goes with more risk; none of it is a cause."]
    left = [str(name) for name in held.get("left_out", [])]
    caption += [f" Left out: {', '.join(left)}."] if left else []
    return Table(caption, "Attribute", (("", 2),), tuple([name] for name in columns), (("", tuple(lines)),))


def _field(evidence: Evidence, file: str, at: str, one: dict[str, object], name: str, kind: str, label: str) -> Entry:
    if name not in one:
        return Entry(["n/a"], (), "")
    return Entry([evidence.book.number(kind, f"{name}, {label}", (file, f"{at}/{name}"))], (), "")


def _line(name: str, cells: list[Entry], columns: tuple[str, ...]) -> Line:
    return Line(name, [], tuple(Entry(cell.main, cell.small, column) for cell, column in zip(cells, columns, strict=True)))
