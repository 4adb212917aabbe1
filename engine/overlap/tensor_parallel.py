"""The tensor-parallel group: a group whose operators hide their communication."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import torch

from engine.groups.group import Group
from engine.overlap.addend import Given
from engine.overlap.choices import Choices
from engine.overlap.collective import CollectiveTransport
from engine.overlap.shared import SharedTransport
from engine.overlap.tuning_cache import TuningCache, arch_of
from engine.peers.memory import CHANNELS
from engine.peers.opening import NotShared, open_shared, peer_processes, tell_all
from engine.peers.watch import PeerWatch
from engine.peers.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch.distributed as dist
    from torch import Tensor

    from collectors.recorder import Recorder
    from engine.groups.group import CurrentStep
    from engine.overlap.transport import Transport
    from engine.peers.device import DevicePeerMemory

TransportChoice = Literal["auto", "shared", "collective"]
_SMALL = 1 << 20


class TensorParallelGroup(Group):
    """Ranks that split each matrix.

    Args:
        choice: ``shared`` memory, ``collective``s of torch.distributed, or the better one of
            those that are possible.
        timeout_s: how long operators wait for a rank that lives.
        keep_gathered: whether gathered tokens are kept for backward, or gathered again.
        home: OPSUITE_HOME, where tuned choices are; None: untuned.

    Attributes:
        transport: the way between the ranks; there is none in a group of one.
        why_collective: what hindered the better way; "" where nothing did.

    Raises:
        NotShared: ``shared`` was asked for, and is not possible.
    """

    transport: Transport

    def __init__(
        self,
        *,
        ranks: Sequence[int],
        global_rank: int,
        process_group: dist.ProcessGroup | None,
        recorder: Recorder,
        current_step: CurrentStep,
        synchronous: bool = True,
        choice: TransportChoice = "auto",
        timeout_s: float = 300.0,
        keep_gathered: bool = False,
        home: Path | None = None,
    ) -> None:
        super().__init__(
            axis="tp",
            ranks=ranks,
            global_rank=global_rank,
            process_group=process_group,
            recorder=recorder,
            current_step=current_step,
            synchronous=synchronous,
        )
        self.keep_gathered = keep_gathered
        self.why_collective = ""
        if process_group is not None and self.size > 1:
            self._choices = self._tuned(home, process_group) if home else Choices()
            self.transport = self._open(process_group, choice, timeout_s)

    def _open(
        self, process_group: dist.ProcessGroup, choice: TransportChoice, timeout_s: float
    ) -> Transport:
        if choice != "collective":
            try:
                if self.synchronous:
                    return self._share(process_group, timeout_s)
                return self._reach(process_group, timeout_s)
            except NotShared as error:
                if choice == "shared":
                    raise
                self.why_collective = error.what
        return CollectiveTransport(process_group, meet=self.meet)

    def _share(self, process_group: dist.ProcessGroup, timeout_s: float) -> Transport:
        if self.size > CHANNELS:
            raise NotShared(f"more than {CHANNELS} ranks in a group", where=self.name)
        workspace = Workspace(
            lambda nbytes: open_shared(
                process_group, nbytes=nbytes, ranks=self.ranks, timeout_s=timeout_s
            )
        )
        return SharedTransport(
            workspace, rank=self.rank, size=self.size, meet=self.meet, choices=self._choices
        )

    def _reach(self, process_group: dist.ProcessGroup, timeout_s: float) -> Transport:
        """On CUDA devices; kernels are imported only where there are any."""
        from engine.overlap.device import MAX_RANKS, DeviceTransport, latest_epochs
        from engine.peers.symmetric import open_symmetric

        if self.size > MAX_RANKS:
            raise NotShared(f"more than {MAX_RANKS} ranks in a group", where=self.name)
        device = torch.device("cuda", torch.cuda.current_device())
        workspace: Workspace[DevicePeerMemory] = Workspace(
            lambda nbytes: open_symmetric(process_group, nbytes=nbytes, device=device)
        )
        watch = PeerWatch(
            ranks=self.ranks,
            processes=peer_processes(process_group, device),
            timeout_s=timeout_s,
            latest=lambda signals: latest_epochs(signals, self.size),
        )
        return DeviceTransport(
            workspace,
            rank=self.rank,
            size=self.size,
            device=device,
            meet=self.meet,
            watch=watch,
            choices=self._choices,
        )

    def _tuned(self, home: Path, process_group: dist.ProcessGroup) -> Choices:
        """What rank 0 finds on its disk: ranks that chose differently would not meet."""
        device = torch.device("cpu" if self.synchronous else "cuda")
        text = "[]"
        if self.rank == 0:
            found, _ = TuningCache(home, arch=arch_of(device), world=self.size).read()
            text = json.dumps(found.to_json())
        return Choices.from_json(json.loads(tell_all(text, process_group, device)))

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        if self.size == 1 or op != "sum" or tensor.nbytes > _SMALL:
            return super().all_reduce(tensor, op)
        total = self.transport.all_reduce(Given(tensor.reshape(1, -1)))
        return tensor.copy_(total.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's ``tensor`` (all of one shape), stacked in the group's order."""
        whole = self.transport.gather(tensor.reshape(1, -1)).whole()
        return whole.view(self.size, *tensor.shape).clone()

    def check(self) -> None:
        """Before results are kept: wait for them.

        Raises:
            PeerLost: they are worthless, for a rank has gone.
        """
        if self.size > 1:
            self.transport.check()

    def close(self) -> None:
        """Give back what the ranks have in common, and leave the group."""
        if self.size > 1:
            self.transport.close()
            del self.transport
        super().close()
