"""This process as a rank of a run: everything that is opened, hooked and closed again."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from collectors.board import Activity
from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.samplers.garbage import GarbageWatch
from engine.device_spans import open_device_spans
from engine.metering.process_meter import ProcessMeter
from engine.presence.presence import Presence
from engine.watching.backwards import Backwards
from engine.watching.collectives import Collectives
from engine.watching.farewell import Farewell
from engine.watching.loaders import Loaders
from engine.watching.long_work import LongWork
from engine.watching.modules import Modules
from engine.watching.optimizers import Optimizers
from engine.watching.patches import Patches
from engine.watching.timeline import Timeline

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from collectors.run import RunDirectory
    from engine.watching.joining import Place


class WatchedRank:
    """Hooks that see what this process trains, until :meth:`close`.

    Args:
        optimizer: whose steps complete the training's steps; None: the first that steps.

    Raises:
        StorageError: the run's directory cannot be written; nothing is hooked.
    """

    def __init__(self, run: RunDirectory, place: Place, optimizer: Any = None) -> None:
        self.run = run
        self.place = place
        self._closed = False
        self._recorder = open_recorder(run.spool, _identity(run, place))
        self._patches = Patches()
        try:
            self._presence = Presence(run.path, rank=place.rank, world_size=place.world_size)
        except BaseException:
            self._recorder.close()
            raise
        self._board = self._presence.board
        self._meter = ProcessMeter()
        self._garbage = GarbageWatch(self._recorder)
        self.timeline = Timeline(self._recorder, self._board, self._after_step)
        self._modules = Modules(self.timeline, self._patches)
        self._long_work = LongWork(self.timeline, self._patches)
        self._hook(optimizer)
        self._garbage.start()
        _HERE.add(self)

    def watch(self, model: nn.Module) -> None:
        """See the forward passes of ``model``."""
        self._modules.watch(model)

    def declare(self, *, begins: bool) -> None:
        """The trainer announces long work of its own, or its end."""
        if begins:
            self.timeline.begin(Activity.DECLARED)
        else:
            self.timeline.end(Activity.DECLARED)

    def close(self) -> None:
        """Take every hook out again, and seal what was recorded."""
        if self._closed:
            return
        self._closed = True
        self._patches.undo()
        self._board.end(well=True)
        self._shut()

    def _hook(self, optimizer: Any) -> None:
        collectives = Collectives(self._recorder, self._board, self.timeline)
        collectives.install(self._patches)
        Backwards(self.timeline, collectives).install(self._patches)
        Loaders(self.timeline).install(self._patches)
        self._modules.install()
        Optimizers(self.timeline, optimizer, self._find).install(self._patches)
        Farewell(self._board, self._recorder, self._shut).install(self._patches)
        self._long_work.look()

    def _after_step(self, step: int) -> None:
        self._meter.read().record(self._recorder, step)
        self._long_work.look()
        if self.timeline.device is not None:
            self.timeline.device.resolve()

    def _find(self, optimizer: Optimizer) -> None:
        """What is trained is known when its optimizer steps first."""
        self._modules.find(optimizer)
        first = next((p for group in optimizer.param_groups for p in group["params"]), None)
        if first is not None and first.device.type == "cuda":
            self.timeline.device = open_device_spans(first.device, self._recorder)

    def _shut(self) -> None:
        """Threads and files; the interpreter may be ending."""
        self._presence.close()
        self._garbage.stop()
        self._meter.close()
        self._recorder.close()

    def leave_to_parent(self) -> None:
        """A forked child (a loader's worker) is not this rank."""
        if not self._closed:
            self._closed = True
            self._board.detach()
            self._patches.undo()


def _identity(run: RunDirectory, place: Place) -> Identity:
    return Identity(
        run_id=run.run_id,
        role="trainer",
        rank=place.rank,
        world_size=place.world_size,
        host=host_name(),
        coordinates={},
    )


_HERE: weakref.WeakSet[WatchedRank] = weakref.WeakSet()


def _in_child() -> None:
    for rank in list(_HERE):
        rank.leave_to_parent()


os.register_at_fork(after_in_child=_in_child)
