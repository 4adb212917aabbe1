"""What an executor asks of the warm process that starts its ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """This host's ranks of one attempt.

    Attributes:
        run: the run's directory; ``job``: the file with what its ranks do.
        hosts, host: how many there are, and which this is.
        meet: "address:port" at the first host, where all ranks meet.
        meet_s: how long they wait for each other there.
        errors: a directory of this attempt and host for torchrun's reports.
    """

    run: str
    run_id: str
    job: str
    name: str
    hosts: int
    host: int
    ranks: int
    address: str
    meet: str
    meet_s: float
    errors: str
