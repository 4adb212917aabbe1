"""The key-value cache: one preallocated row of ``max_len`` tokens for each running request.

Rows in use are kept at 0..n-1 (a row freed in the middle takes over the last one's content), so
that a batch of all running requests is a view of the storage and never copied together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.config import ModelConfig


class KeyValueCache:
    """Keys and values of every running request, per layer [rows, Hkv, max_len, Dh].

    Args:
        max_batch: number of rows.
        max_len: tokens of one row.

    Attributes:
        window: tokens that attention looks back; 0: all. Older ones are kept all the same.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        max_batch: int,
        max_len: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (max_batch, config.n_kv_heads, max_len, config.head_dim)
        # Zeros, not garbage: a masked position counts 0 times its value, and 0 x NaN is NaN.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.max_len = max_len
        self.window = config.window
        self._max_batch = max_batch
        self._rows: list[int] = []  # row -> request
        self._row_of: dict[int, int] = {}
        self._lengths: dict[int, int] = {}

    @property
    def requests(self) -> int:
        """Requests that hold a row."""
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Tokens stored, over all requests."""
        return sum(self._lengths.values())

    def allocate(self, number: int) -> None:
        """Give a request a row."""
        assert len(self._rows) < self._max_batch, "the policy keeps to the capacity"
        self._row_of[number] = len(self._rows)
        self._rows.append(number)
        self._lengths[number] = 0

    def release(self, number: int) -> None:
        """Take a request's row back, if it has one."""
        if number not in self._row_of:
            return
        row, length = self._row_of.pop(number), self._lengths.pop(number)
        last = len(self._rows) - 1
        mover = self._rows.pop()
        if row != last:
            self._rows[row] = mover
            self._row_of[mover] = row
            length = max(length, self._lengths[mover])
        for storage in (*self.keys, *self.values):
            if row != last:
                storage[row, :, :length] = storage[last, :, :length]
            storage[last, :, :length] = 0  # nothing of one request, NaN least of all, meets another

    def length(self, number: int) -> int:
        """Tokens of a request that are stored."""
        return self._lengths[number]

    def extend(self, number: int, tokens: int) -> None:
        """Count tokens as stored, once a whole forward pass has written them."""
        self._lengths[number] += tokens

    def row(self, number: int) -> int:
        """Where a request's keys and values are; valid until the next release."""
        return self._row_of[number]

    def in_row_order(self, numbers: Sequence[int]) -> list[int]:
        """The same requests in the order that makes a full batch a view."""
        return sorted(numbers, key=self._row_of.__getitem__)
