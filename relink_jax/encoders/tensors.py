"""One tensor of a weight file that has not been read yet, and the names of its number formats."""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    **{"F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)},
    **{"I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8)},
    **{"U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_)},
}
NAMES = {dtype.name: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Number format (safetensors' names: F32, F16, BF16, I64, ...), shape, and `load`, which reads the array as it is stored."""

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    def __setstate__(self, state: object) -> None:
        """A pickle that means to change a tensor it has made is refused."""
        raise ValueError("a pickle that changes a tensor")
