"""What may take minutes without anything being wrong: checkpoints, and compiling."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline

_SAVING = (
    ("torch", "save"),
    ("torch.distributed.checkpoint", "save"),
    ("safetensors.torch", "save_file"),
)
_DYNAMO = "torch._dynamo.callback"


class LongWork:
    """Sees saving and compiling."""

    def __init__(self, timeline: Timeline, patches: Patches) -> None:
        self._timeline = timeline
        self._patches = patches
        self._saving: set[str] = set()
        self._compiling = False
        self._compilations = 0

    def look(self) -> None:
        """Watch what has been imported meanwhile; cheap, called once a step."""
        for module, name in _SAVING:
            if module not in self._saving and module in sys.modules:
                self._saving.add(module)
                self._patches.wrap(sys.modules[module], name, self._watched_save)
        if not self._compiling and _DYNAMO in sys.modules:
            self._compiling = True
            self._watch_compiler(sys.modules[_DYNAMO].callback_handler)

    def _watched_save(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._timeline.begin(Activity.CHECKPOINT)
            try:
                return function(*args, **kwargs)
            finally:
                self._timeline.end(Activity.CHECKPOINT)

        return call

    def _watch_compiler(self, handler: Any) -> None:
        handler.register_start_callback(self._compile_begins)
        handler.register_end_callback(self._compile_ends)
        self._patches.add(lambda: handler.remove_start_callback(self._compile_begins))
        self._patches.add(lambda: handler.remove_end_callback(self._compile_ends))

    def _compile_begins(self, _: Any) -> None:
        self._timeline.interrupt(Activity.COMPILE)

    def _compile_ends(self, _: Any) -> None:
        self._timeline.resume()
