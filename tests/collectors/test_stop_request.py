"""A wish to end: signals at any instruction of a wait never hang it, and every waiter is woken."""

from __future__ import annotations

import random
import signal
import threading
import time

from collectors.stop_request import StopRequest, made_by


def test_a_signal_may_come_at_any_instruction_of_a_wait() -> None:
    """``threading.Event`` in its place hangs here, within seconds."""
    chance = random.Random(0)
    for _ in range(3000):
        with made_by(StopRequest(), signal.SIGALRM) as request:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 4e-4))
            while not request.wait(5e-6):
                pass
        assert request.made


def test_all_waiters_are_woken_and_later_ones_do_not_wait() -> None:
    request = StopRequest()
    answers: list[bool] = []
    waiters = [
        threading.Thread(target=lambda: answers.append(request.wait(30.0))) for _ in range(3)
    ]
    for waiter in waiters:
        waiter.start()
    request.make()
    begun = time.monotonic()
    for waiter in waiters:
        waiter.join()
    assert answers == [True] * 3
    assert request.wait(30.0)
    assert time.monotonic() - begun < 5.0


def test_a_time_passes_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with made_by(StopRequest(), signal.SIGALRM) as request:
        assert not request.wait(0.001)
        assert not request.wait(-1.0)
    assert signal.getsignal(signal.SIGALRM) is before
