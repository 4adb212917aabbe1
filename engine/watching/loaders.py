"""Waiting for data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline


class Loaders:
    """Sees every fetch of a torch DataLoader in the thread that trains."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def install(self, patches: Patches) -> None:
        """Watch all loaders, also those that are made later."""
        patches.wrap(_BaseDataLoaderIter, "__next__", self._watched)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._timeline.begin(Activity.DATA)
            try:
                return function(*args, **kwargs)
            finally:
                self._timeline.end(Activity.DATA)

        return call
