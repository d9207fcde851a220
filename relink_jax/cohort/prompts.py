"""Prompts for and against each of the 14 findings, in the words of reports: what zero-shot classification compares images with.

A finding's name goes through three templates and their negations; what reports deny in other words, such as an enlarged heart, is said in
those. 'No Finding' is claimed by the sentences that close a normal report and denied by the prompts for every other pathology, since a
report says what is abnormal and hardly ever that something is. No prompt is a single word: some models' text cleaning drops those.

References: Tiu et al. (2022), Nat. Biomed. Eng. 6, 1399-1406 (CheXzero: 'x' against 'no x'); Huang et al. (2021), ICCV, GLoRIA (several
descriptions of a finding).
"""

import functools

from relink_jax.cohort.schema import LABELS
from relink_jax.store import digests

_FOR = ("{} is seen.", "There is {}.", "Chest radiograph showing {}.")
_AGAINST = ("No {}.", "There is no {}.", "Chest radiograph showing no {}.")
_NORMAL = (
    *("No acute cardiopulmonary process.", "No acute cardiopulmonary abnormality.", "No evidence of acute disease.", "No acute disease."),
    *("The lungs are clear. No pleural effusion or pneumothorax. The heart is normal in size.", "Normal chest radiograph."),
    "Chest radiograph showing no finding.",
)
_NAMES: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("a widened mediastinum",),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": ("a lung opacity",),
    "Lung Lesion": ("a lung mass", "a lung nodule"),
    "Edema": ("pulmonary edema",),
    "Consolidation": ("focal consolidation", "lung consolidation"),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis",),
    "Pneumothorax": ("a pneumothorax",),
    "Pleural Effusion": ("a pleural effusion",),
    "Pleural Other": ("pleural thickening",),
    "Fracture": ("a rib fracture", "an acute fracture"),
    "Support Devices": ("an endotracheal tube", "a pacemaker", "a jugular catheter"),
}
_ALSO: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": (("The mediastinum is widened.",), ("The cardiac and mediastinal contours are normal.",)),
    "Lung Opacity": (("Opacity in the lung.",), ("The lungs are clear.",)),
    "Cardiomegaly": (("The heart is enlarged.", "Enlargement of the cardiac silhouette."), ("The heart is normal in size.", "Normal heart size.")),
    "Pneumonia": (("Lung opacity consistent with pneumonia.",), ()),
    "Fracture": ((), ("The bones are intact.",)),
    "Support Devices": (("Internal jugular line in place.",), ("No tubes or lines in place.", "No support devices.")),
}


@functools.cache
def pairs() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Returns the prompts for and against each label of `schema.LABELS`, in that order."""
    found = {}
    for label, names in _NAMES.items():
        bare = tuple(name.removeprefix("a ").removeprefix("an ") for name in names)
        sides = (_filled(_FOR, names), _filled(_AGAINST, bare))
        found[label] = tuple(made + also for made, also in zip(sides, _ALSO.get(label, ((), ())), strict=True))
    abnormal = tuple(prompt for label, (claimed, _) in found.items() if label != "Support Devices" for prompt in claimed)
    found["No Finding"] = (_NORMAL, abnormal)
    return {label: (found[label][0], found[label][1]) for label in LABELS}


def texts() -> list[str]:
    """Returns every distinct prompt once, sorted: the rows of prompt features."""
    return sorted({prompt for sides in pairs().values() for side in sides for prompt in side})


def rows() -> list[tuple[list[int], list[int]]]:
    """Returns, for each label of `schema.LABELS`, the rows in `texts` of the prompts for it and against it."""
    row = {prompt: number for number, prompt in enumerate(texts())}
    return [([row[prompt] for prompt in claimed], [row[prompt] for prompt in denied]) for claimed, denied in pairs().values()]


def digest() -> str:
    """Returns the digest of the prompts, by label and side."""
    return digests.value_digest([[label, list(claimed), list(denied)] for label, (claimed, denied) in pairs().items()])


def _filled(templates: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    made = (template.format(name) for name in names for template in templates)
    return tuple(text[:1].upper() + text[1:] for text in made)
