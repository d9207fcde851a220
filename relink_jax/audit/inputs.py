"""Validated inputs of an audit, and the one function that makes them from a user's arrays and ids.

Rows are joined by id, never by position, and every problem is one sentence that names the argument, what was expected and
how many rows are wrong. Ids themselves never appear in messages, nor in results unless `keep_ids` says they are pseudonyms.
"""

import dataclasses
import functools
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import strata
from relink_jax.retrieval import unique
from relink_jax.store.rows import Rows, RowSource, blocks, select

EXPOSURES = ("seen", "unseen", "unknown")
_PROBLEMS = (("non-finite embedding", "finite numbers"), ("zero embedding", "rows of norm above 0"), ("embedding out of range", "rows that fit float32"))
_PRODUCTS = (1e-30, 1e38)  # of the largest norms of both sides, within which float32 inner products neither vanish nor overflow


@dataclasses.dataclass(frozen=True)
class AuditInputs:
    """Q images, S studies, U distinct report embeddings and P patients, joined by number.

    Attributes:
        images: float32 [Q, D], unit-norm unless prepared with normalize=False.
        image_study: int32 [Q].
        texts: float32 [U, D], distinct by bytes, in order of the first study that has them.
        study_text: int32 [S]. study_patient: int32 [S].
        study_labels: int8 [S, 14] in {1, 0, -1, -2 blank}, or None. study_has_labels: bool [S].
        image_key, study_key, patient_key: pseudonyms written to results, object arrays [Q], [S], [P].
        study_exposure: whether the model's training has seen each study ('seen', 'unseen' or 'unknown'), object array [S], or None.
        study_facts: what else is recorded of each study (sex, age, view, words of its report), float64 or object arrays [S] by name.
    """

    images: RowSource
    image_study: np.ndarray
    texts: RowSource
    study_text: np.ndarray
    study_patient: np.ndarray
    study_labels: np.ndarray | None
    study_has_labels: np.ndarray
    image_key: np.ndarray
    study_key: np.ndarray
    patient_key: np.ndarray
    study_exposure: np.ndarray | None = None
    study_facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def describe(self) -> dict[str, int]:
        """Returns the sizes that results carry."""
        return {
            "n_images": len(self.images),
            "n_studies": len(self.study_text),
            "n_unique_texts": len(self.texts),
            "n_patients": len(self.patient_key),
            "n_labelled_studies": int(self.study_has_labels.sum()),
            "dim": int(self.images.shape[1]),
        }


def prepare(
    *,
    images: Any,
    texts: Any,
    image_study: Sequence[Hashable],
    text_study: Sequence[Hashable],
    patient: Sequence[Hashable],
    labels: Any = None,
    has_labels: Any = None,
    image_patient: Sequence[Hashable] | None = None,
    image_id: Sequence[Hashable] | None = None,
    study_exposure: Any = None,
    study_facts: Mapping[str, Any] | None = None,
    normalize: bool = True,
    keep_ids: bool = False,
) -> AuditInputs:
    """Returns validated inputs from arrays and ids of any hashable kind.

    Args:
        images: [Q, D] image embeddings. texts: [S, D] report embeddings, one row per study. `Rows` of a store are checked and
            scaled whenever they are read: the texts here, to find equal ones, and the images not before they are counted.
        image_study: [Q] study id of each image. text_study: [S] study id of each report, without repeats.
        patient: [S] patient id of each report's study.
        labels: [S, 14] CheXpert states 1, 0, -1 in the order of `strata.LABELS`; -2, NaN or None is blank. A row all NaN is a
            study without labels.
        has_labels: [S] booleans, overrides that rule.
        image_patient: [Q] patient id of each image, checked against its study's.
        image_id: [Q] distinct pseudonyms of images, used with keep_ids.
        study_exposure: [S] 'seen', 'unseen' or 'unknown': whether the model's training has seen the study; Recall is then also given for each.
        study_facts: what else is recorded of each study, [S] numbers or words by name, None where it is not; for strata and for who is at risk.
        normalize: scale rows to unit norm (cosine scores); False takes inner products of the rows as they are.
        keep_ids: write the ids given here into results; pass True only for pseudonyms. Otherwise results hold row numbers.
    Raises: DataError: text or complex numbers in place of real ones, non-finite or zero rows, unequal dims or lengths, missing
        or repeated ids, an image whose study has no report, a study under two patients, unknown label values or another number
        of labels, fewer than 2 patients, magnitudes whose inner products float32 cannot hold; UsageError: normalize or keep_ids
        that is not a boolean.
    """
    for name, flag in (("normalize", normalize), ("keep_ids", keep_ids)):
        if not isinstance(flag, bool | np.bool_):
            raise errors.UsageError(errors.describe("value", f"argument {name!r}", "True or False", type(flag).__name__))
    image_rows, text_rows = _embeddings("images", images, normalize), _embeddings("texts", texts, normalize)
    if image_rows.shape[1] != text_rows.shape[1]:
        raise errors.DataError(errors.describe("dims differ", "argument 'texts'", f"{image_rows.shape[1]} columns, as in 'images'", f"{text_rows.shape[1]}"))
    if not normalize:
        _check_magnitudes(image_rows, text_rows)
    n_images, n_studies = len(image_rows), len(text_rows)
    study_ids = _ids("text_study", text_study, n_studies, "texts")
    patients = _ids("patient", patient, n_studies, "texts")
    number = _number_studies(study_ids, patients)
    image_studies = _ids("image_study", image_study, n_images, "images")
    joined = np.array([number.get(study, -1) for study in image_studies], np.int64)
    if (joined < 0).any():
        kinds = f"{type(image_studies[0]).__name__} ids here, {type(study_ids[0]).__name__} ids in 'text_study'"
        raise errors.DataError(
            errors.describe("image without report", "argument 'image_study'", "every study id also in 'text_study'", f"{_rows(joined < 0)} ({kinds})")
        )
    patient_number: dict[Hashable, int] = {}
    study_patient = np.array([patient_number.setdefault(one, len(patient_number)) for one in patients], np.int32)
    if image_patient is not None:
        claimed = np.array([patient_number.get(one, -1) for one in _ids("image_patient", image_patient, n_images, "images")])
        if (claimed != study_patient[joined]).any():
            raise errors.DataError(
                errors.describe(
                    "study under two patients", "argument 'image_patient'", "the patient of the image's study", _rows(claimed != study_patient[joined])
                )
            )
    if len(patient_number) < 2:
        raise errors.DataError(errors.describe("too few patients", "argument 'patient'", "at least 2 different patients", str(len(patient_number))))
    states, labelled = _labels(labels, has_labels, n_studies)
    first, text_group = unique.unique_rows(text_rows)
    image_names = _ids("image_id", image_id, n_images, "images") if image_id is not None else None
    repeated = _repeated(image_names or [])
    if repeated.any():
        raise errors.DataError(errors.describe("repeated image id", "argument 'image_id'", "each image once", _rows(repeated)))
    keys = [
        _keys(names if keep_ids else None, size)
        for names, size in ((image_names, n_images), (study_ids, n_studies), (list(patient_number), len(patient_number)))
    ]
    exposure = None if study_exposure is None else _exposures(study_exposure, n_studies)
    return AuditInputs(
        images=image_rows,
        image_study=joined.astype(np.int32),
        texts=select(text_rows, first),
        study_text=text_group,
        study_patient=study_patient,
        study_labels=states,
        study_has_labels=labelled,
        image_key=keys[0],
        study_key=keys[1],
        patient_key=keys[2],
        study_exposure=exposure,
        study_facts={name: _fact(name, values, n_studies) for name, values in (study_facts or {}).items()},
    )


def real_numbers(where: str, values: Any, expected: str = "an array of real numbers") -> np.ndarray:
    """Returns `values` as float64; raises what `real_array` does. None is NaN."""
    return real_array(where, values, expected).astype(np.float64)


def real_array(where: str, values: Any, expected: str = "an array of real numbers") -> np.ndarray:
    """Returns `values` as an array of integers, booleans or floats, after refusing what NumPy would turn into numbers unasked: text, complex numbers,
    dates, masks.

    Raises: DataError: anything but real numbers; `where` names it, such as "argument 'images'".
    """
    kind, real = type(values).__name__, False
    try:
        array = np.asarray(values)
        if array.dtype == object:
            real = values is not None and all(one is None or isinstance(one, numbers.Real) for one in array.flat)
        else:
            real, kind = array.dtype.kind not in "USMmc", f"{array.dtype} values"
        if real and not np.ma.is_masked(values):
            return array if array.dtype.kind in "biuf" else array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise errors.DataError(errors.describe("wrong type", where, expected, kind)) from error
    raise errors.DataError(errors.describe("wrong type", where, expected, "masked values" if real else kind))


def _embeddings(name: str, values: Any, normalize: bool) -> RowSource:
    """Returns finite, non-zero float32 rows [n, D]: an array of them, or `Rows` that are made so, or refused, when they are read."""
    where = f"argument {name!r}"
    given = values if isinstance(values, Rows) else real_array(where, values)
    if len(given.shape) != 2 or 0 in given.shape:
        raise errors.DataError(errors.describe("wrong shape", where, "a non-empty [rows, dims] array", str(list(given.shape))))
    if isinstance(given, Rows):
        return dataclasses.replace(given, change=functools.partial(_as_read, where, given, normalize))
    scaled, problem = np.empty(given.shape, np.float32), np.empty(len(given), np.int8)
    for part in blocks(given):
        scaled[part], problem[part] = _scaled(given[part], normalize)
    _refuse(where, problem)
    return scaled


def _as_read(where: str, every: Rows, normalize: bool, rows: np.ndarray) -> np.ndarray:
    """Returns `rows`, some of `every`, as `_scaled` does; when one of them is wrong, reads all to say how many are."""
    scaled, problem = _scaled(rows, normalize)
    if problem.any():
        _refuse(where, np.concatenate([_scaled(every[part], normalize)[1] for part in blocks(every)]))
    return scaled


def _scaled(rows: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns (float32 rows [n, D], of unit norm if asked; number of what is wrong with each, from 1 in `_PROBLEMS`, 0 for nothing).

    Negative zeros become zeros, so that equal rows have equal bytes.
    """
    wide = rows.astype(np.float64)
    finite = np.isfinite(wide).all(axis=1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        norms = _norms(wide)
        if normalize:
            wide /= norms[:, None]
        narrow = wide.astype(np.float32) + np.float32(0)
    fits = np.isfinite(narrow).all(axis=1) & narrow.any(axis=1)
    return narrow, np.select([~finite, norms == 0, ~fits], [1, 2, 3], 0)


def _refuse(where: str, problem: np.ndarray) -> None:
    """Raises `DataError` for the first of `_PROBLEMS` that a row has, if any has one."""
    if problem.any():
        worst = problem[problem > 0].min()
        what, expected = _PROBLEMS[worst - 1]
        raise errors.DataError(errors.describe(what, where, expected, _rows(problem == worst)))


def _check_magnitudes(images: RowSource, texts: RowSource) -> None:
    """Raises `DataError` where float32 scores of rows taken as they are could overflow, or all vanish."""
    largest = [max(_norms(source[part].astype(np.float64)).max() for part in blocks(source)) for source in (images, texts)]
    if not _PRODUCTS[0] <= largest[0] * largest[1] <= _PRODUCTS[1]:
        expected = f"largest norms with a product in [{_PRODUCTS[0]:g}, {_PRODUCTS[1]:g}], or normalize=True"
        raise errors.DataError(errors.describe("magnitudes", "arguments 'images' and 'texts'", expected, f"{largest[0]:.3g} and {largest[1]:.3g}"))


def _norms(wide: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nd,nd->n", wide, wide))


def _ids(name: str, values: Any, n: int, owner: str) -> list[Hashable]:
    """Returns `values` as a list of n present, hashable ids."""
    where = f"argument {name!r}"
    given = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Set | Mapping):
        raise errors.DataError(errors.describe("wrong type", where, f"a sequence of {n} ids, one per row of {owner!r}", type(values).__name__))
    ids = list(given)
    if len(ids) != n:
        raise errors.DataError(errors.describe("length differs", where, f"{n} ids, one per row of {owner!r}", str(len(ids))))
    absent = np.array([not _present(one) for one in ids])
    if absent.any():
        raise errors.DataError(errors.describe("missing id", where, "a hashable, non-empty id in every row", _rows(absent)))
    return ids


def _fact(name: str, values: Any, n_studies: int) -> np.ndarray:
    """Returns one fact of the studies: float64 with NaN where None, or an object array of words with '' where None, unless all are numbers."""
    where = f"fact {name!r} of argument 'study_facts'"
    given = list(values.tolist() if hasattr(values, "tolist") else values)
    if len(given) != n_studies:
        raise errors.DataError(errors.describe("length differs", where, f"{n_studies} values, one per row of 'texts'", str(len(given))))
    if all(one is None or (isinstance(one, numbers.Real) and not isinstance(one, bool)) for one in given):
        return np.array([np.nan if one is None else float(one) for one in given])
    return np.array(["" if one is None or one != one else str(one) for one in given], dtype=object)


def _exposures(values: Any, n_studies: int) -> np.ndarray:
    """Returns `study_exposure` as an object array of known words."""
    given = np.array(_ids("study_exposure", values, n_studies, "texts"), dtype=object)
    wrong = ~np.isin(given.astype(str), EXPOSURES)
    if wrong.any():
        raise errors.DataError(errors.describe("unknown exposure", "argument 'study_exposure'", ", ".join(EXPOSURES), _rows(wrong)))
    return given


def _present(one: Any) -> bool:
    """Whether `one` can be an id: hashable, and neither None, empty nor NaN."""
    try:
        hash(one)
        return one is not None and one != "" and bool(one == one)
    except TypeError:
        return False


def _repeated(ids: Sequence[Hashable]) -> np.ndarray:
    """Returns bool [n]: rows whose id an earlier row has."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(one, row) != row for row, one in enumerate(ids)], bool)


def _number_studies(study_ids: list[Hashable], patients: list[Hashable]) -> dict[Hashable, int]:
    """Returns {study id: row}; refuses repeats, and says so when the repeats are under different patients."""
    number: dict[Hashable, int] = {}
    conflicting = np.zeros(len(study_ids), bool)
    for row, study in enumerate(study_ids):
        conflicting[row] = patients[number.setdefault(study, row)] != patients[row]
    if conflicting.any():
        raise errors.DataError(errors.describe("study under two patients", "argument 'patient'", "one patient per study", _rows(conflicting)))
    repeated = _repeated(study_ids)
    if repeated.any():
        raise errors.DataError(errors.describe("repeated study id", "argument 'text_study'", "each study once", _rows(repeated)))
    return number


def _labels(labels: Any, has_labels: Any, n: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns (int8 states [n, 14] or None, bool [n] of labelled studies)."""
    if labels is None:
        return None, np.zeros(n, bool)
    values = real_numbers("argument 'labels'", labels, "numbers 1, 0, -1, and -2, NaN or None for blank")
    if values.shape != (n, len(strata.LABELS)):
        expected = f"[{n}, {len(strata.LABELS)}], one row per row of 'texts' and one column per CheXpert observation"
        raise errors.DataError(errors.describe("wrong shape", "argument 'labels'", expected, str(list(values.shape))))
    blank = np.isnan(values)
    known = np.isin(values, (1, 0, -1, strata.BLANK)) | blank
    if not known.all():
        raise errors.DataError(errors.describe("unknown label value", "argument 'labels'", "1, 0, -1, or -2, NaN or None for blank", _rows(~known.all(axis=1))))
    labelled = ~blank.all(axis=1) if has_labels is None else np.asarray(has_labels)
    if labelled.shape != (n,) or labelled.dtype != bool:
        found = f"{labelled.dtype} of shape {list(labelled.shape)}"
        raise errors.DataError(errors.describe("wrong type", "argument 'has_labels'", f"{n} booleans, one per row of 'texts'", found))
    return np.where(blank, strata.BLANK, values).astype(np.int8), labelled


def _keys(names: list[Hashable] | None, n: int) -> np.ndarray:
    """Returns pseudonyms as strings: the given names, or zero-padded row numbers."""
    width = len(str(max(n - 1, 0)))
    return np.array([str(name) for name in names] if names is not None else [f"{row:0{width}d}" for row in range(n)], dtype=object)


def _rows(wrong: Any) -> str:
    """Returns how many rows are wrong and the number of the first."""
    count = int(wrong.sum())
    return f"{count} wrong row{'s' if count > 1 else ''}, first at row {int(np.flatnonzero(wrong)[0])}"
