"""Rows of one or several archives, and a recipe, become a `Cohort`.

Every check of `rules` runs over all rows before anything is left out; the first breach ends it, naming the data row (counted from 1, header
not counted) and column and never the identifier or the text. What the recipe leaves out is counted.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from relink_jax import errors
from relink_jax.cohort import facts, recipes, rules, splits
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.problems import refuse
from relink_jax.cohort.rows import Rows, Texts, first_rows
from relink_jax.cohort.schema import SPLITS, Cohort
from relink_jax.store import digests


def assemble(
    parts: Sequence[Pairs],
    recipe: recipes.Recipe,
    *,
    key: bytes,
    name: str,
    synthetic: bool = False,
    max_missing_share: float = 0.0,
) -> Cohort:
    """Returns the cohort that `recipe` makes of `parts`, part after part, each in its own order.

    Identifiers of different parts are never the same person, study or image, even where they are spelt alike; equal texts are. With several
    parts the counts carry the part's name in front, and `image_source` says which part an image is of.
    Args:
        key: the workdir's secret for keyed pseudonyms.
        max_missing_share: in [0, 1), share of the rows of kept views of a part whose image (or report file) may be missing.

    Raises: DataError: a row that breaks a rule, too many missing files, a part without the recipe's text, two parts of one name or with
        sites that would share a file name, or nothing left.
    """
    names = [part.name for part in parts]
    if not parts or len(set(names)) < len(names):
        raise errors.DataError(errors.describe("parts", "cohort", "at least one archive or table, each of another name", f"{len(parts)}, some of one name"))
    chosen = [choose(part, recipe, max_missing_share) for part in parts]
    _check_sites(chosen)
    counts: dict[str, int] = {}
    for part in chosen:
        counts |= {f"{part.rows.where}: {what}" if len(parts) > 1 else what: count for what, count in part.counts.items()}
    if not any(part.keep.any() for part in chosen):
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        where = " and ".join(names)
        found = f"none of {sum(part.rows.size for part in chosen)} rows ({told})"
        raise errors.DataError(errors.describe("pairs left", where, "at least one image with a report", found))
    return _joined(chosen, recipe, counts, key, name, synthetic)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One part after the recipe: its rows, bool [rows] which are kept, their texts, int8 [rows] each one's place in `SPLITS`, and what was counted."""

    rows: Rows
    keep: np.ndarray
    texts: Texts
    split: np.ndarray
    counts: dict[str, int]


def choose(part: Pairs, recipe: recipes.Recipe, max_missing_share: float = 0.0, *, look: bool = True) -> Chosen:
    """Returns what the recipe keeps of one part after checking it; `look` is whether image files are looked for.

    Raises: DataError: see `assemble`.
    """
    rows = Rows(part)
    refuse(rules.of_rows(rows, recipe), rows.where)
    if not rows.text_columns(recipe.text_field):
        refuse([rows.no_text(recipe.text_field)], rows.where)
    counts = dict(part.counts) | {"rows_read": rows.size}
    keep = rows.of_views(recipe)
    counts["dropped_view"] = int((~keep).sum())
    if "view" not in rows.found:
        counts["unknown_view"] = rows.size
    counts["missing_files"] = 0
    if look:
        lost, outside = rows.absent("image_path", keep)
        refuse(rules.leading_out("image_path", outside), rows.where)
        counts["missing_files"] = _bearable(rows, "image_path", lost, int(keep.sum()), max_missing_share)
        keep[lost] = False
    texts = rows.texts(recipe, keep)
    if "report_path" in rows.text_columns(recipe.text_field):
        counts["missing_reports"] = _bearable(rows, "report_path", texts.missing, int(keep.sum()), max_missing_share)
    refuse(rules.of_texts(rows, texts), rows.where)
    keep = by_length(keep, texts, recipe, counts)
    split = split_of(rows, recipe)
    return Chosen(rows, by_study(rows, keep, texts, split, recipe, counts), texts, split, counts)


def split_of(rows: Rows, recipe: recipes.Recipe) -> np.ndarray:
    """Returns int8 [rows]: the place in `SPLITS` of each row's split under the recipe."""
    if recipe.split == "none":
        return np.full(rows.size, SPLITS.index("test"), np.int8)
    column, named = "split", np.array(rows.distinct("split"), object)
    if recipe.split == "hash":
        column = "patient_id"
        named = splits.by_hash(rows.distinct(column), splits.key_of(recipe.split_seed), recipe.shares)
    place = {name: number for number, name in enumerate(SPLITS)}
    return np.array([place[name] for name in named], np.int8)[rows.codes(column)]


def _bearable(rows: Rows, column: str, lost: np.ndarray, kept: int, max_missing_share: float) -> int:
    """Returns how many files are missing; `DataError` where that is more than may be."""
    if len(lost) > max_missing_share * kept:
        found = f"{len(lost)} of {kept} missing, the first at data row {lost[0] + 1}"
        expected = f"a missing share of at most {max_missing_share:g}"
        raise errors.DataError(errors.describe("missing files", f"{rows.where}, column {column!r}", expected, found))
    return len(lost)


def by_length(keep: np.ndarray, texts: Texts, recipe: recipes.Recipe, counts: dict[str, int]) -> np.ndarray:
    """Returns `keep` without rows of empty, too short or too long texts, and counts them."""
    words = texts.words
    tests = {"empty_text": words == 0}
    if recipe.min_words > 1:
        tests["too_few_words"] = (words > 0) & (words < recipe.min_words)
    if recipe.max_words:
        tests["too_many_words"] = words > recipe.max_words
    for what, out in tests.items():
        counts[what] = int((keep & out).sum())
        keep = keep & ~out
    return keep


def by_study(rows: Rows, keep: np.ndarray, texts: Texts, split: np.ndarray, recipe: recipes.Recipe, counts: dict[str, int]) -> np.ndarray:
    """Returns `keep` with the first row of each study, and the studies that are the first of their text and split, as the recipe says."""
    studies = rows.codes("study_id")
    if recipe.images == "first":
        kept = np.flatnonzero(keep)
        further = kept[first_rows(studies[kept]) != np.arange(len(kept))]
        counts["further_images"] = len(further)
        keep = keep.copy()
        keep[further] = False
    if recipe.deduplicate == "text":
        kept = np.flatnonzero(keep)
        same = first_rows(split[kept].astype(np.int64) * len(texts.distinct) + texts.codes[kept])
        repeated = studies[kept] != studies[kept[same]]
        counts["studies_of_a_repeated_text"] = len(np.unique(studies[kept[repeated]]))
        keep = keep.copy()
        keep[kept[repeated]] = False
    return keep


def _check_sites(chosen: Sequence[Chosen]) -> None:
    spellings: dict[str, str] = {}
    for part in chosen:
        for site in dict.fromkeys(part.rows.found["site"]):
            if spellings.setdefault(site.lower().replace(" ", "-"), site) != site:
                expected = "names that differ in more than case, spaces and '-'"
                raise errors.DataError(errors.describe("sites", part.rows.where, expected, "one that another part spells otherwise"))


class _Keys:
    """Distinct identifiers over all parts, in order of first appearance."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[np.ndarray] = []

    def add(self, chosen: Chosen, column: str, kept: np.ndarray, prefix: str) -> np.ndarray:
        """Returns int32 [rows]: the number of each row's identifier (-1 outside `kept`), after taking note of those of `kept`, ascending rows."""
        codes = chosen.rows.codes(column)
        firsts = kept[first_rows(codes[kept]) == np.arange(len(kept))]
        numbers = np.full(int(codes.max(initial=-1)) + 1, -1, np.int32)
        numbers[codes[firsts]] = len(self.names) + np.arange(len(firsts), dtype=np.int32)
        cells = chosen.rows.found[column]
        self.names += [prefix + cells[row] for row in firsts.tolist()]
        self.rows.append(firsts)
        return numbers[codes]


def _joined(chosen: Sequence[Chosen], recipe: recipes.Recipe, counts: dict[str, int], key: bytes, name: str, synthetic: bool) -> Cohort:
    keys = {column: _Keys() for column in ("image_id", "study_id", "patient_id")}
    columns: dict[str, list] = {field: [] for field in (*_PER_IMAGE, *_PER_STUDY)}
    text_of: dict[str, int] = {}
    names = tuple(dict.fromkeys(name for part in chosen for name in part.rows.pairs.facts))
    told: list[dict[str, np.ndarray]] = []
    roots: list[pathlib.Path] = []
    for part in chosen:
        kept = np.flatnonzero(part.keep)
        prefix = f"{part.rows.where}\n" if len(chosen) > 1 else ""
        number = {column: known.add(part, column, kept, prefix) for column, known in keys.items()}
        images, studies = keys["image_id"].rows[-1], keys["study_id"].rows[-1]
        found = part.rows.found
        view = found.get("view", [""] * part.rows.size)
        columns["image_study"].append(number["study_id"][images])
        columns["image_source"].append(np.full(len(images), len(roots), np.int32))
        columns["image_path"].append(_taken(found["image_path"], images))
        columns["image_view"].append(_taken(view, images))
        columns["image_prior"].append(_priors(part, number["image_id"], images, counts))
        columns["study_patient"].append(number["patient_id"][studies])
        columns["study_split"].append(np.array(SPLITS, object)[part.split[studies]])
        for field, cells in (("site", found["site"]), ("exposure", found["pretrain_exposure"]), ("origin", found["origin"])):
            columns[f"study_{field}"].append(_taken(cells, studies))
        numbered = [text_of.setdefault(part.texts.distinct[code], len(text_of)) for code in part.texts.codes[studies].tolist()]
        columns["study_text"].append(np.array(numbered, np.int32))
        columns["study_labels"].append(part.rows.labels[studies])
        columns["study_has_labels"].append(part.rows.labelled[studies])
        base = sum(len(piece) for piece in columns["study_text"][:-1])
        told.append(facts.of_rows(part.rows, names, kept, number["study_id"][kept] - base, counts))
        roots.append(part.rows.pairs.image_root)
    joined = {field: np.concatenate(pieces) for field, pieces in columns.items()}
    found_facts = {name: np.concatenate([one[name] for one in told]) for name in told[0]} | facts.of_texts(list(text_of), joined["study_text"])
    counts |= {
        "studies_without_labels": int((~joined["study_has_labels"]).sum()),
        "images": len(joined["image_study"]),
        "studies": len(joined["study_patient"]),
    }
    counts |= {"patients": len(keys["patient_id"].names), "unique_texts": len(text_of)}
    counts |= {what: counts.pop(what) for what in ("images_with_prior", "dropped_prior") if what in counts}
    return Cohort(
        name=name,
        synthetic=synthetic,
        image_roots=tuple(roots),
        image_key=_keyed(key, keys["image_id"].names),
        study_key=_keyed(key, keys["study_id"].names),
        patient_key=_keyed(key, keys["patient_id"].names),
        text=list(text_of),
        text_key=_keyed(key, list(text_of)),
        counts=counts,
        recipe=recipe.record(),
        study_facts=facts.recorded(found_facts),
        **joined,
    )


_PER_IMAGE = ("image_study", "image_source", "image_path", "image_view", "image_prior")
_PER_STUDY = (
    *("study_patient", "study_split", "study_site", "study_exposure", "study_origin"),
    *("study_text", "study_labels", "study_has_labels"),
)


def _priors(part: Chosen, number: np.ndarray, images: np.ndarray, counts: dict[str, int]) -> np.ndarray:
    """Returns each image's prior, int32 [images], -1 for none, and counts the priors that are there and those whose own row was left out."""
    found = part.rows.found
    if "prior_image_id" not in found:
        return np.full(len(images), -1, np.int32)
    number_of = {found["image_id"][row]: int(number[row]) for row in range(part.rows.size - 1, -1, -1)}
    named = [found["prior_image_id"][row] for row in images.tolist()]
    priors = np.array([number_of.get(image, -1) if image else -1 for image in named], np.int32)
    there = int(np.count_nonzero(priors >= 0))
    counts["images_with_prior"] = counts.get("images_with_prior", 0) + there
    counts["dropped_prior"] = counts.get("dropped_prior", 0) + sum(map(bool, named)) - there
    return priors


def _taken(cells: list[str], rows: np.ndarray) -> np.ndarray:
    taken = np.empty(len(rows), object)
    taken[:] = [cells[row] for row in rows.tolist()]
    return taken


def _keyed(key: bytes, names: list[str]) -> np.ndarray:
    return np.array([digests.keyed(key, name) for name in names])
