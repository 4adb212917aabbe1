"""The way from one stage of a pipeline to the next."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class Pipe(Protocol):
    """As one stage sees it. What is sent first is received first."""

    def receive(self, tokens: int) -> torch.Tensor:
        """Hidden states [tokens, D] of the stage before."""
        ...

    def send(self, hidden: torch.Tensor) -> None:
        """Hidden states for the stage after; returns when they may be in flight still."""
        ...

    def meet(self) -> None:
        """Wait for all stages."""
        ...


class RankPipe:
    """Between processes of torch.distributed's default group.

    Args:
        before, after: ranks of the neighbouring stages; None at the ends.
        width: D.
    """

    def __init__(
        self,
        *,
        before: int | None,
        after: int | None,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._before = before
        self._after = after
        self._width = width
        self._device = device
        self._dtype = dtype
        self._sending: tuple[dist.Work | None, torch.Tensor] | None = None

    def receive(self, tokens: int) -> torch.Tensor:
        """See :class:`Pipe`."""
        assert self._before is not None, "the first stage has tokens"
        hidden = torch.empty(tokens, self._width, device=self._device, dtype=self._dtype)
        dist.recv(hidden, self._before)
        return hidden

    def send(self, hidden: torch.Tensor) -> None:
        """See :class:`Pipe`."""
        assert self._after is not None, "the last stage has scores"
        if self._sending and self._sending[0]:
            self._sending[0].wait()
        hidden = hidden.contiguous()
        self._sending = dist.isend(hidden, self._after), hidden  # kept until it has been read

    def meet(self) -> None:
        """See :class:`Pipe`."""
        dist.barrier()
