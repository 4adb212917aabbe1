"""What the numbers of a step say: not a number, a corrupted gradient, corrupted weights.

Every rank tells the norm of its own gradient before any other's is added, so that it can be told
whose was bad; and whether its weights are still what it had left behind.
"""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING, Any

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.resilience.messages import Beat, StepDone
    from engine.resilience.rules.rule import Attempt, Sight

REMEMBERED = 32
"""Steps that tell what is usual."""
_ENOUGH = 5  # steps before anything is unusual
_SPIKE_LEAST = 1.0  # nats above the usual loss


class Numbers:
    """Judges a step once all ranks have told theirs, or one of them has told enough.

    Args:
        repeated: where an earlier attempt's numbers were bad, its step and hosts: what comes again
            there on another host is the data's, or the model's.
        norms: of gradients in earlier attempts; of this one's are added.
    """

    def __init__(
        self, attempt: Attempt, repeated: Mapping[str, Sequence[Any]], norms: deque[float]
    ) -> None:
        self._attempt = attempt
        self._ranks = attempt.ranks
        self._repeated = repeated
        self._told: dict[int, dict[int, StepDone]] = defaultdict(dict)
        self._norms = norms
        self._losses: deque[float] = deque(maxlen=REMEMBERED)

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        found: list[Incident] = []
        for done in beat.done:
            told = self._told[done.step]
            told[done.rank] = done
            if not done.intact:
                found.append(self._weights(done))
            if len(told) == self._ranks:
                found += self._judge_until(done.step)
        return found

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: numbers come with heartbeats."""
        return ()

    def _judge_until(self, step: int) -> list[Incident]:
        """Steps before that were not told whole never will be: a driver before heard the rest."""
        due = sorted(each for each in self._told if each <= step)
        return [found for each in due for found in self._judge(each, self._told.pop(each))]

    def _weights(self, done: StepDone) -> Incident:
        return Incident(
            cause=Cause.CORRUPT_WEIGHTS,
            ranks=(done.rank,),
            hosts=self._attempt.hosts_of((done.rank,)),
            good_until=done.step - 1,
            detail=f"the weights of rank {done.rank} changed between steps {done.step - 1}"
            f" and {done.step}",
        )

    def _judge(self, step: int, told: Mapping[int, StepDone]) -> list[Incident]:
        infinite = sorted(rank for rank, done in told.items() if done.own_norm is None)
        whole = any(done.loss is None or done.norm is None for done in told.values())
        if infinite or whole:
            return [self._not_a_number(step, infinite)]
        if large := self._far_above(told):
            return [self._gradient(step, large, told)]
        found = self._spike(step, told)
        self._norms.append(median(done.own_norm or 0.0 for done in told.values()))
        return found

    def _not_a_number(self, step: int, ranks: Sequence[int]) -> Incident:
        some = 0 < len(ranks) < self._ranks
        again = not some and self._elsewhere(Cause.NAN_BATCH, step, ())
        return Incident(
            cause=Cause.NAN_RANK if some else Cause.NAN_BATCH,
            ranks=tuple(ranks) if some else (),
            hosts=self._attempt.hosts_of(ranks) if some else (),
            good_until=step - 1,
            detail=f"the gradient of step {step} is not a number on "
            + (f"rank {', '.join(map(str, ranks))}" if some else "any rank")
            + (", as before" if again else ""),
        )

    def _far_above(self, told: Mapping[int, StepDone]) -> list[int]:
        """Ranks whose gradient is beyond all that was usual."""
        if len(self._norms) < _ENOUGH:
            return []
        limit = self._attempt.config.spike_factor * max(median(self._norms), 1e-30)
        return sorted(rank for rank, done in told.items() if (done.own_norm or 0.0) > limit)

    def _gradient(self, step: int, ranks: list[int], told: Mapping[int, StepDone]) -> Incident:
        hosts = self._attempt.hosts_of(ranks)
        again = self._elsewhere(Cause.CORRUPT_GRADIENT, step, hosts)
        largest = max(told[rank].own_norm or 0.0 for rank in ranks)
        return Incident(
            cause=Cause.CORRUPT_GRADIENT,
            recover=not again,  # what comes again is not the hardware's
            ranks=tuple(ranks),
            hosts=hosts,
            good_until=step - 1,
            detail=f"the gradient of rank {', '.join(map(str, ranks))} has norm {largest:.3g} at"
            f" step {step}, usually {median(self._norms):.3g}" + (", as before" if again else ""),
        )

    def _elsewhere(self, cause: Cause, step: int, hosts: Sequence[str]) -> bool:
        """Whether the same came at the same step before, and on other hosts, if on some."""
        before = self._repeated.get(str(cause))
        return before is not None and before[0] == step and not set(before[1:]) & set(hosts)

    def _spike(self, step: int, told: Mapping[int, StepDone]) -> list[Incident]:
        losses = [done.loss for done in told.values() if done.loss]
        if not losses:
            return []
        loss = max(losses)
        usual = median(self._losses) if len(self._losses) >= _ENOUGH else loss
        spread = median(abs(each - usual) for each in self._losses) if self._losses else 0.0
        self._losses.append(loss)
        if loss <= usual + max(_SPIKE_LEAST, 10 * spread):
            return []
        detail = f"the loss of step {step} is {loss:.3f}, usually {usual:.3f}"
        return [Incident(cause=Cause.SPIKE, recover=False, detail=detail)]
