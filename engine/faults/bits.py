"""Single bits of floating-point numbers in tensors, flipped in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def place_of(tensor: torch.Tensor, number: int) -> tuple[int, ...]:
    """The indices of the element that comes as ``number`` (from 0) in row-major order."""
    indices = []
    for size in reversed(tensor.shape):
        number, index = divmod(number, size)
        indices.append(index)
    return tuple(reversed(indices))


def flip_bit(tensor: torch.Tensor, indices: tuple[int, ...], bit: int) -> None:
    """Flip one bit (0: the least) of one element, where it lies."""
    import torch

    width = tensor.element_size() * 8
    integers = {16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    mask = 1 << bit if bit < width - 1 else -(1 << bit)  # the sign bit, as a signed number
    with torch.no_grad():
        tensor.detach().view(integers)[indices] ^= mask


def top_exponent_bit(dtype: torch.dtype) -> int:
    """The bit below the sign: it makes of most numbers enormous ones."""
    import torch

    return torch.finfo(dtype).bits - 2
