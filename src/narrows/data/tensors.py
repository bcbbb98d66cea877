"""Tensors as users give them, on any device and of any type."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from narrows.errors import DataTypeError

__all__ = ["to_array"]

KNOWN = (torch.float16, torch.float32, torch.float64)
"""Types of real numbers that NumPy has too; the others are narrower than float32."""


def to_array(tensor: Tensor, where: str = "X") -> NDArray[Any]:
    """Return a tensor as an array.

    Raises:
        DataTypeError: it is sparse, or without values.
    """
    if tensor.layout != torch.strided:
        raise DataTypeError(
            f"Sparse data was passed for {where}, but dense data is required. Use '.to_dense()' "
            "to convert it."
        )
    if tensor.is_meta:
        raise DataTypeError(f"{where} is a tensor on the device 'meta', which holds no values.")
    if tensor.is_floating_point() and tensor.dtype not in KNOWN:
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy(force=True)
    return array
