"""What a scheduler asks of a prefix cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.scheduling.job import Job


class Prefixes(Protocol):
    """Tokens at the front of jobs whose keys and values exist already. At least one token of each
    job is computed all the same, since that gives the next."""

    def known(self, job: Job) -> int:
        """How many there are now."""
        ...

    def share(self, job: Job) -> int:
        """The job begins: as many are kept for it from now on."""
        ...


class NoPrefixes:
    """Every prompt is new."""

    def known(self, job: Job) -> int:
        return 0

    def share(self, job: Job) -> int:
        return 0
