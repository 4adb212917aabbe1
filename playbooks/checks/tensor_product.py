"""The known product by PyTorch: on a GPU, or by a core's matrix unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbooks.checks.known_product import SIZE, factors, known_product, tiles

if TYPE_CHECKING:
    import torch


class TensorProduct:
    """A product of ``size`` x ``size`` matrices of ``kind`` (float32, bfloat16) on ``device``.

    Sums are added up in float32, where they are exact, and rounded once to ``kind``.

    Raises:
        WrongProductError: the machine does not compute the known product even once.
    """

    def __init__(self, *, device: str, kind: str, size: int = SIZE) -> None:
        import torch

        # Partial sums of a split product must not be rounded in between. This process does nothing
        # else, so the switch is for nobody else.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        count, dtype = tiles(size), getattr(torch, kind)
        a, b = (torch.from_numpy(matrix).to(device, dtype) for matrix in factors())
        tile = torch.from_numpy(known_product()).to(device, torch.float32) * count
        self.flop = 2.0 * size**3
        self._a, self._b = a.repeat(count, count), b.repeat(count, count)
        self._expected = tile.to(dtype).repeat(count, count)
        self._result = torch.empty_like(self._expected)

    def multiply(self) -> torch.Tensor:
        """The product, until the next call."""
        import torch

        torch.mm(self._a, self._b, out=self._result)
        if self._result.is_cuda:
            torch.cuda.synchronize(self._result.device)
        return self._result

    def difference(self, result: torch.Tensor) -> str:
        """Which elements are not what they must be; "" where all are."""
        import torch

        if torch.equal(result, self._expected):
            return ""
        wrong = (result != self._expected).nonzero()
        row, column = (int(index) for index in wrong[0])
        return (
            f"{len(wrong)} of {result.numel()} elements are wrong, first ({row}, {column}):"
            f" {result[row, column].item()} instead of {self._expected[row, column].item()}"
        )
