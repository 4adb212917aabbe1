"""What the end of a rank means to its job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from engine.resilience.messages import Ended

_MOST_TOLD = 500


def explain(ended: Ended) -> Incident:
    """The incident that a host's report of failed ranks is.

    Whoever lost a peer says nothing of itself: then no host and no rank is concerned.
    """
    detail = " ".join(filter(None, (ended.signal, ended.what)))[:_MOST_TOLD]
    if ended.lost_peer:
        return Incident(cause=Cause.PEER_LOST, detail=detail)
    cause = Cause.ERROR
    if ended.signal == "SIGKILL":
        cause = Cause.OUT_OF_MEMORY if ended.out_of_memory else Cause.KILLED
    elif ended.signal:
        cause = Cause.CRASHED
    ranks = (ended.rank,) if ended.rank >= 0 else ()
    return Incident(cause=cause, hosts=(ended.host,), ranks=ranks, detail=detail)
