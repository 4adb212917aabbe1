"""Watching anybody's trainer: ``import opsuite; opsuite.watch(model, optimizer)``.

Nothing here may break the trainer: what goes wrong is told once, on stderr, and training goes on.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opsuite.floors import own_floors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.run import RunDirectory
    from engine.watching.rank import WatchedRank


class Watch:
    """What :func:`watch` gives; it sees this process until :meth:`stop`.

    Attributes:
        run_id: of the run that it records; None where watching could not begin.
    """

    def __init__(self, rank: WatchedRank | None) -> None:
        self._rank = rank
        self.run_id = None if rank is None else rank.run.run_id

    def stop(self) -> None:
        """Take every hook out again."""
        global _current  # noqa: PLW0603 - one a process
        if self._rank is not None:
            with own_floors():
                self._rank.close()
        if _current is self:
            _current = None


_current: Watch | None = None


def watch(model: Any = None, optimizer: Any = None, *, name: str = "watched") -> Watch:
    """Record what this process trains, as a rank of a run: call it once in every rank.

    Steps, waiting for data, forward, backward, optimizer and collectives are recorded, and a
    watchdog tells who never came when the run stops stepping. Call it after
    ``init_process_group``; it may be called again with another model. In workers of data loaders it
    does nothing.

    Args:
        model: whose forward passes to see; None: those that the optimizer trains.
        optimizer: whose steps complete a step of training; None: the first that steps.
        name: of the run, unless ``opsuite run`` has begun one.
    """
    global _current  # noqa: PLW0603 - one a process
    try:
        with own_floors():
            from engine.watching.workers import is_worker

            if is_worker():
                return Watch(None)
            if _current is None:
                _current = Watch(_begin(optimizer, name))
            _see(_current, model)
        return _current
    except Exception as error:  # noqa: BLE001 - the trainer goes on without us
        _tell(f"this process is not watched: {error}")
        return Watch(None)


def _see(current: Watch, model: Any) -> None:
    try:
        if model is not None and current._rank is not None:
            current._rank.watch(model)
    except Exception as error:  # noqa: BLE001 - all but the forward passes is seen
        _tell(f"the forward passes of this model are not seen: {error}")


@contextmanager
def busy() -> Iterator[None]:
    """Announce long work of the trainer's own: while the body runs, nobody takes it for hung."""
    rank = None if _current is None else _current._rank
    if rank is not None:
        rank.declare(begins=True)
    try:
        yield
    finally:
        if rank is not None:
            rank.declare(begins=False)


def arm(ranked: Callable[[int], None] | None = None) -> None:
    """Watch this process as soon as it trains: what ``opsuite run`` does in every Python process.

    That is when it has initialised torch.distributed, or makes the first step of an optimizer.

    Args:
        ranked: called with its rank then, if it is one of several.
    """

    def begin() -> None:
        rank = watch()._rank
        if ranked is not None and rank is not None and rank.place.world_size > 1:
            ranked(rank.place.rank)

    try:
        with own_floors():
            from engine.watching.arming import arm as arm_torch
        arm_torch(begin)
    except Exception as error:  # noqa: BLE001 - the trainer goes on without us
        _tell(f"this process is not watched: {error}")


def hugging_face_callback() -> Any:
    """``Trainer(..., callbacks=[opsuite.HuggingFaceCallback()])`` watches that training."""
    with own_floors():
        from engine.watching import callbacks
    return callbacks.hugging_face_callback(_watched_rank)


def lightning_callback() -> Any:
    """``Trainer(..., callbacks=[opsuite.LightningCallback()])`` watches that training."""
    with own_floors():
        from engine.watching import callbacks
    return callbacks.lightning_callback(_watched_rank)


def _watched_rank(model: Any, optimizer: Any) -> WatchedRank | None:
    return watch(model, optimizer)._rank


def _begin(optimizer: Any, name: str) -> WatchedRank | None:
    from collectors.settings import Settings
    from engine.watching.joining import Place, join_run
    from engine.watching.rank import WatchedRank

    settings = Settings.from_environment()
    if not settings.record:
        return None
    place = Place.here()

    def begin(run_id: str | None) -> RunDirectory:
        return _make_run(settings.home, name, place.world_size, run_id)

    run = join_run(settings.home, place, run_id=settings.run, begin=begin)
    rank = WatchedRank(run, place, optimizer)
    if settings.run is None and settings.watchdog and place.local_rank == 0:
        _watch_for_hangs(run.path)
    return rank


def _make_run(home: Path, name: str, world_size: int, run_id: str | None) -> RunDirectory:
    from collectors.run import RunDirectory

    return RunDirectory.create(
        home,
        name=name,
        kind="training",
        command=[sys.executable, *sys.argv],
        config={},
        world_size=world_size,
        run_id=run_id,
    )


def _watch_for_hangs(run: Path) -> None:
    from opsuite.watchdog.starting import start_watchdog

    try:
        start_watchdog(run, own=True)
    except OSError as error:
        _tell(f"nobody watches for hangs: {error}")


_told: set[str] = set()


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        print(f"opsuite: {text}", file=sys.stderr, flush=True)  # noqa: T201 - in a user's process
