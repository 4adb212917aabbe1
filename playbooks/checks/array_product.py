"""The known product by NumPy, on one core, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from playbooks.checks.known_product import SIZE, factors, known_product

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArrayProduct:
    """float32, 512 x 512: it fits a core's own cache.

    Raises:
        WrongProductError: the machine does not compute the known product even once.
    """

    flop = 2.0 * SIZE**3

    def __init__(self) -> None:
        self._expected = known_product()
        self._a, self._b = factors()
        self._result = np.empty((SIZE, SIZE), dtype=np.float32)

    def multiply(self) -> NDArray[np.float32]:
        """The product, until the next call."""
        return np.matmul(self._a, self._b, out=self._result)

    def difference(self, result: NDArray[np.float32]) -> str:
        """Which elements are not what they must be; "" where all are."""
        wrong = np.argwhere(result != self._expected)
        if not len(wrong):
            return ""
        row, column = (int(index) for index in wrong[0])
        return (
            f"{len(wrong)} of {SIZE * SIZE} elements are wrong, first ({row}, {column}):"
            f" {result[row, column]!s} instead of {self._expected[row, column]!s}"
        )
