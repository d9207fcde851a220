"""How phantom reports are worded, as data: the form of an entry, and the sentences that name no finding.

Slots: {side} right, left or bilateral; {grade}; {place}; {n} a number; {s} and {is} plural when bilateral, {p} and {are}
when several; {h} 'possible ' when hedged. A `hedged` sentence carries -1 for its first label. Labels follow the CheXpert
labeler's reading (Irvin et al. 2019, arXiv 1901.07031): a mention counts for its own label only, a negated mention is 0,
what is not mentioned stays blank.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one kind of finding is said.

    `group` orders the sentences; `plain` is style A, `terse` style B, `brief` the impression; `mention` is the chance that
    a report states it; impressions name what has the most `weight`, and nothing of weight 0.
    """

    group: str
    labels: tuple[str, ...]
    plain: tuple[str, ...]
    terse: tuple[str, ...]
    brief: str
    hedged: tuple[str, ...] = ()
    mention: float = 0.95
    weight: int = 2


NEGATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("pleura", "no pleural effusion or pneumothorax.", ("Pleural Effusion", "Pneumothorax")),
    ("pleura", "no pneumothorax.", ("Pneumothorax",)),
    ("pleura", "no pleural effusion.", ("Pleural Effusion",)),
    ("lungs", "no focal consolidation.", ("Consolidation",)),
    ("lungs", "no focal consolidation or pulmonary edema.", ("Consolidation", "Edema")),
    ("lungs", "no pulmonary edema.", ("Edema",)),
    ("heart", "the heart is normal in size.", ("Cardiomegaly",)),
    ("heart", "the cardiac and mediastinal contours are normal.", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    ("bones", "no acute fracture.", ("Fracture",)),
)

_CLEAR = ("Pleural Effusion", "Pneumothorax", "Consolidation")
MACROS: dict[str, tuple[tuple[str, str, tuple[str, ...], float], ...]] = {
    "A": (
        (
            "The lungs are clear. No pleural effusion or pneumothorax. No focal consolidation. The heart is normal in size.",
            "No acute cardiopulmonary process.",
            (*_CLEAR, "Cardiomegaly"),
            0.45,
        ),
        (
            "The cardiac and mediastinal contours are normal. No focal consolidation, pleural effusion or pneumothorax.",
            "No acute cardiopulmonary abnormality.",
            (*_CLEAR, "Cardiomegaly", "Enlarged Cardiomediastinum"),
            0.30,
        ),
        ("Lungs are well expanded and clear. No pleural effusion or pneumothorax.", "Normal chest radiograph.", ("Pleural Effusion", "Pneumothorax"), 0.15),
        (
            "No previous images. No focal consolidation, pulmonary edema, pleural effusion or pneumothorax.",
            "No evidence of acute disease.",
            (*_CLEAR, "Edema"),
            0.10,
        ),
    ),
    "B": (
        (
            "LUNGS: clear. PLEURA: no effusion or pneumothorax. HEART: normal size.",
            "1. No acute disease.",
            ("Pleural Effusion", "Pneumothorax", "Cardiomegaly"),
            0.7,
        ),
        (
            "LUNGS: no consolidation. PLEURA: no effusion. HEART: normal size. BONES: intact.",
            "1. Normal examination.",
            ("Pleural Effusion", "Consolidation", "Cardiomegaly"),
            0.3,
        ),
    ),
}
QUIET = {
    "A": ("No acute cardiopulmonary process.", "No acute intrathoracic abnormality.", "No evidence of acute disease."),
    "B": ("1. No acute disease.", "1. No acute findings."),
}
GRADE_WORDS = {"mild": ("mild", "mild", "slight"), "small": ("small", "small", "minimal"), "severe": ("severe",), "marked": ("marked",)}
