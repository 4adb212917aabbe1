"""What a driver wants done; whoever runs it does so, in a live job as in a simulated one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.resilience.messages import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send an order to a host's executor."""

    host: str
    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOnDisk:
    """Find the newest whole checkpoint after a step of at most ``at_most``; answer OnDisk."""

    at_most: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHook:
    """Call the site's hook: a host is left out ("drain"), or let in again ("undrain")."""

    what: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Record an event of the job."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The job is over.

    Attributes:
        status: "finished", "failed" or "stopped".
    """

    status: str
    reason: str = ""


Effect = Tell | FindOnDisk | CallHook | Note | Finish


class Outbox:
    """Collects effects in the order in which they are to be carried out."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def tell(self, host: str, order: Order) -> None:
        """An order to a host."""
        self._effects.append(Tell(host=host, order=order))

    def hook(self, what: str, host: str, reason: str) -> None:
        """A call of the site's hook."""
        self._effects.append(CallHook(what=what, host=host, reason=reason))

    def note(self, name: str, **facts: Any) -> None:  # noqa: ANN401
        """An event."""
        self._effects.append(Note(name=name, facts=facts))

    def add(self, effect: Effect) -> None:
        """Any other."""
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """All so far, once."""
        effects, self._effects = self._effects, []
        return effects
