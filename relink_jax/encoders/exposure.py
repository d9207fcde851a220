"""Whether a model's training has seen a study, from what is recorded of the model and the part of a release that the study belongs to.

An audit on studies that a model was trained on mixes memory with generalisation; official splits are by patient, so a model that kept to the
official training part has not met the official test patients. What a model's authors do not state stays 'unknown': nothing is guessed in
favour of either answer, but that a model trained on a dataset has seen that dataset's own training part.
"""

from collections.abc import Sequence

import numpy as np

from relink_jax.encoders.specs import Exposure

SEEN, UNSEEN, UNKNOWN = "seen", "unseen", "unknown"
_DATASETS = {"mimic-cxr": "MIMIC-CXR", "chexpert-plus": "CheXpert Plus", "openi": "Open-I", "rexgradient": "ReXGradient-160K", "padchest": "PadChest"}
_TRAINING = ("train",)


def of_origin(exposure: Sequence[Exposure], origin: str) -> str:
    """Returns 'seen', 'unseen' or 'unknown' for studies of `origin`, such as 'mimic-cxr/test'; 'unknown' for an origin nobody declared.

    'seen': the model was trained on that part, with its reports, its images or their labels. 'unseen': its authors state that they did not
    use the dataset, or only its training part and the origin is another one.
    """
    dataset, _, part = origin.partition("/")
    recorded = next((one for one in exposure if one.dataset == _DATASETS.get(dataset)), None)
    if recorded is None or recorded.confidence == UNKNOWN:
        return UNKNOWN
    if recorded.kind == "none":
        return UNSEEN if recorded.confidence == "stated" else UNKNOWN
    if part in _TRAINING or recorded.split.startswith("all"):
        return SEEN
    return UNSEEN if recorded.split in ("train", "official train") else UNKNOWN


def of_studies(exposure: Sequence[Exposure], origin: np.ndarray, declared: np.ndarray) -> np.ndarray:
    """Returns object [S] of 'seen', 'unseen' and 'unknown'.

    Args:
        exposure: what is recorded of the model.
        origin: each study's part of a published release, '' where none is known, object [S].
        declared: what the archive's own table says for every model, object [S]; it decides wherever it is not 'unknown'.
    """
    known = {one: of_origin(exposure, one) for one in set(origin.tolist())}
    return np.array([said if said != UNKNOWN else known[one] for one, said in zip(origin.tolist(), declared.tolist(), strict=True)], dtype=object)
