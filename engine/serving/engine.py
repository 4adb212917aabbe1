"""The engine: a thread that runs one iteration after another for whatever the policy chooses."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from collectors.clock import now_ns
from collectors.level import Level, declare
from engine.serving.generation import Generation
from engine.serving.policies.policy import Job
from engine.serving.request import Delta, FinishReason
from engine.serving.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from collectors.recorder import Recorder
    from engine.serving.detokenizer import Vocabulary
    from engine.serving.policies.policy import Policy
    from engine.serving.request import GenerationRequest
    from engine.serving.runner import ModelRunner

_log = logging.getLogger(__name__)
declare(Level.SAMPLED, "prefill", "decode", "running_requests", "kv_tokens")
_STOP = None


class Engine:
    """Generates for many requests at once (continuous batching).

    The seam to the API is narrow: :meth:`submit` and :meth:`cancel` from any thread, and ``emit``,
    which is called in the engine's thread with what an iteration added.

    Args:
        end_tokens: ids that end a sequence.
        emit: must not block.

    Attributes:
        alive: whether requests are taken; False once it was stopped or failed.
    """

    def __init__(
        self,
        *,
        runner: ModelRunner,
        policy: Policy,
        vocabulary: Vocabulary,
        end_tokens: frozenset[int],
        recorder: Recorder,
        emit: Callable[[list[Delta]], None],
    ) -> None:
        self._runner = runner
        self._policy = policy
        self._vocabulary = vocabulary
        self._end_tokens = end_tokens
        self._recorder = recorder
        self._emit = emit
        self._inbox: queue.SimpleQueue[tuple[GenerationRequest, ...] | frozenset[int] | None] = (
            queue.SimpleQueue()
        )
        self._live: dict[int, Generation] = {}
        self._outbox: list[Delta] = []
        self._iteration = 0
        self._thread = threading.Thread(target=self._run, name="engine")
        self.alive = False

    def start(self) -> None:
        """Start the thread."""
        self.alive = True
        self._thread.start()

    def submit(self, requests: Iterable[GenerationRequest]) -> None:
        """Let requests join; they must fit the capacity that the policy was given."""
        arriving = tuple(requests)
        for request in arriving:
            self._recorder.event(
                "request.arrived",
                subject=request.number,
                attributes={"id": request.id, "prompt_tokens": len(request.prompt)},
            )
        self._inbox.put(arriving)

    def cancel(self, numbers: Iterable[int]) -> None:
        """Withdraw requests; those that ended already are passed over."""
        self._inbox.put(frozenset(numbers))

    def stop(self) -> None:
        """Cancel what is left and end the thread."""
        self._inbox.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        reason = FinishReason.ERROR
        try:
            while self._receive():
                self._iterate()
            reason = FinishReason.CANCELLED
        except Exception:  # noqa: BLE001 - a bug: every client must hear of it
            _log.exception("the engine failed")
        self.alive = False
        self._abandon(reason)

    def _abandon(self, reason: FinishReason) -> None:
        """Tell every client that is left; the policy and the cache are not used any more."""
        tokens = {number: generation.tokens for number, generation in self._live.items()}
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, tuple):
                tokens |= dict.fromkeys((request.number for request in message), 0)
        for number, generated in tokens.items():
            self._record_end(number, generated, reason)
            self._outbox.append(_last(number, generated, reason))
        self._emit(self._outbox)

    def _receive(self) -> bool:
        """Take in all messages, waiting for one if there is nothing to do; False is the end."""
        while not (self._live and self._inbox.empty()):
            message = self._inbox.get()
            if message is _STOP:
                return False
            if isinstance(message, frozenset):
                for number in message & self._live.keys():
                    self._end(number, FinishReason.CANCELLED)
                self._flush()
            else:
                for request in message:
                    self._admit(request)
        return True

    def _admit(self, request: GenerationRequest) -> None:
        self._live[request.number] = Generation(request, self._vocabulary, self._end_tokens)
        job = Job(
            number=request.number,
            prompt_tokens=len(request.prompt),
            max_tokens=request.max_tokens,
        )
        self._policy.arrived(job, time.monotonic())

    def _iterate(self) -> None:
        iteration = self._policy.schedule(time.monotonic())
        assert iteration.prefill or iteration.decode, "what is admitted can run"
        self._iteration += 1
        for number in iteration.prefill:
            start_ns = now_ns()
            self._prefill(number)
            self._flush("prefill", start_ns)  # its first token does not wait for the next prompt
        if iteration.decode:
            start_ns = now_ns()
            self._decode(iteration.decode)
            self._flush("decode", start_ns)

    def _prefill(self, number: int) -> None:
        self._recorder.event("request.scheduled", subject=number)
        try:
            logits = self._runner.prefill(number, self._live[number].request.prompt)
        except Exception:  # noqa: BLE001 - whatever it is, it concerns this request alone
            self._fail(number)
        else:
            self._advance([number], logits)

    def _decode(self, numbers: Sequence[int]) -> None:
        ordered = self._runner.cache.in_row_order(numbers)
        try:
            logits = self._runner.decode({n: self._live[n].latest for n in ordered})
        except Exception:  # noqa: BLE001 - one of them is to blame: the others go on
            if len(ordered) == 1:
                self._fail(ordered[0])
            else:
                for number in ordered:
                    self._decode([number])
        else:
            self._advance(ordered, logits)

    def _advance(self, numbers: Sequence[int], logits: Tensor) -> None:
        generations = [self._live[number] for number in numbers]
        tokens = sample(
            logits, [g.request.sampling for g in generations], [g.draw() for g in generations]
        )
        for number, generation, token in zip(numbers, generations, tokens, strict=True):
            try:
                delta = generation.append(token)
            except Exception:  # noqa: BLE001 - whatever it is, it concerns this request alone
                self._fail(number)
                continue
            self._policy.token(number, time.monotonic())
            if delta.tokens == 1:
                self._recorder.event("request.first_token", subject=number)
            if delta.finish:
                self._end(number, delta.finish, delta)
            elif delta.text:
                self._outbox.append(delta)

    def _fail(self, number: int) -> None:
        _log.exception("request %d failed", number)
        self._end(number, FinishReason.ERROR)

    def _end(self, number: int, reason: FinishReason, delta: Delta | None = None) -> None:
        """Free all that a request holds, record its end and tell its client."""
        tokens = self._live.pop(number).tokens
        self._runner.cache.release(number)
        if reason is FinishReason.CANCELLED:
            self._policy.cancelled(number, time.monotonic())
        else:
            self._policy.finished(number, time.monotonic())
        self._record_end(number, tokens, reason)
        self._outbox.append(delta or _last(number, tokens, reason))

    def _record_end(self, number: int, tokens: int, reason: FinishReason) -> None:
        self._recorder.event(
            "request.finished", subject=number, value=tokens, attributes={"reason": reason.value}
        )

    def _flush(self, phase: str | None = None, start_ns: int = 0) -> None:
        """Send what was added, and record the phase of the iteration that added it."""
        if phase:
            self._recorder.record_span(phase, start_ns, now_ns(), self._iteration)
        self._recorder.sample("running_requests", self._runner.cache.requests, self._iteration)
        self._recorder.sample("kv_tokens", self._runner.cache.tokens, self._iteration)
        if self._outbox:
            self._emit(self._outbox)
            self._outbox = []


def _last(number: int, tokens: int, reason: FinishReason) -> Delta:
    return Delta(number=number, text="", tokens=tokens, finish=reason)
