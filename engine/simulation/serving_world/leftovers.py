"""What an engine still holds when it has no request: there must be nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.serving.worker.engine import Engine

_OURS = "engine."
_KEPT = {"_free", "_host", "_prefixes", "_idle", "_counts", "_hazards", "storage"}
"""What is no request's: free blocks, prefixes that may be wanted again, what was counted, and what
a policy has learnt of how long outputs are."""


def leftovers(engine: Engine) -> str:
    """Names of containers that are not empty, and blocks that are not free; "": none."""
    cache = engine.cache
    if cache.used or cache.host_used:
        return f"{cache.used} blocks of the device and {cache.host_used} of the host"
    load = engine.load()
    if load.kv_usage or load.host_usage:
        return "blocks that the scheduler counts as taken"
    return ", ".join(_filled(engine, "engine", set()))


def _filled(thing: Any, name: str, seen: set[int]) -> Iterator[str]:  # noqa: ANN401
    """Containers of requests by name, in all objects of ours that can be reached."""
    if id(thing) in seen or name.rpartition(".")[2] in _KEPT:
        return
    seen.add(id(thing))
    if isinstance(thing, dict | set | list):
        if thing and _is_of_requests(thing):
            yield f"{name} ({len(thing)})"
    elif type(thing).__module__.startswith(_OURS):
        for part, value in getattr(thing, "__dict__", {}).items():
            yield from _filled(value, f"{name}.{part}", seen)


def _is_of_requests(found: dict[Any, Any] | set[Any] | list[Any]) -> bool:
    """Jobs, or numbers of requests as keys: not measured values."""
    one = next(iter(found))
    if isinstance(found, dict):
        return isinstance(one, int) and not isinstance(found[one], int | float)
    if isinstance(found, set):
        return True
    return type(one).__module__.startswith(_OURS)
