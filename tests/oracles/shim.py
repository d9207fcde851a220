"""Lets a torchvision wheel that was compiled for another torch be imported.

Such a wheel has no compiled operators, so that `import torchvision`, and with it every torch model of transformers, fails on
`operator torchvision::nms does not exist`. Declaring the two operators that are looked up at import is enough for models and transforms.
"""

import importlib.util

_OPERATORS = ("nms", "qnms")
_keep: list[object] = []


def install() -> None:
    """Declares the operators once, where torch and torchvision are both installed and torchvision does not import by itself."""
    if _keep or not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep.append(library)
