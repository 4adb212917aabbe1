"""The view ``serving`` of our own servers, second by second, on a case computed by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collectors.query.session import Session

Small = Any  # the conftest's SmallStore


def live(small: Small, server: int, number: int, **marks: float) -> None:
    """A request of 10 prompt tokens; ``tokens`` are its output, the rest are ms after T0."""
    tokens = int(marks.pop("tokens", 0))
    for name, at in marks.items():
        about: dict[str, Any] = {"subject": number}
        if name == "arrived":
            about["attributes"] = json.dumps({"id": str(number), "prompt_tokens": 10})
        if name == "finished":
            about |= {"value": float(tokens), "attributes": '{"reason": "stop"}'}
        small.add("event", server, name=f"request.{name}", at=at, **about)


@pytest.fixture
def served(small: Small) -> Small:
    """Request 0 makes 21 tokens from 500 to 2500 ms; request 1 waits from 1200 to 2600 ms, and is
    still decoding; nothing happens from 3 s to 4 s, when request 2 is cancelled while it waits."""
    small.run("r", kind="serving", name="org/m", config='{"max_batch": 2, "max_len": 50}')
    server = small.process(0, role="server")
    live(small, server, 0, arrived=100, scheduled=200, first_token=500, finished=2500, tokens=21)
    live(small, server, 1, arrived=1200, scheduled=2600, first_token=2700)
    for step, end in enumerate((2650, 2750, 2850, 4100)):
        small.span(server, "decode", step, end - 50, end)
    small.add("event", server, name="request.arrived", at=4200, subject=2, attributes="{}")
    cancelled = {"value": 0.0, "attributes": '{"reason": "cancelled"}'}
    small.add("event", server, name="request.finished", at=4300, subject=2, **cancelled)
    return small


def test_our_own_server_second_by_second(session: Session, served: Small) -> None:
    session.show(served.snapshot())
    rows = session.rows(
        "SELECT source, model, duration_s, (start_ns - 1700000000000000000) / 1e9, running,"
        " waiting, prompt_tokens_per_s, generation_tokens_per_s, finished_per_s, ttft_p50_s,"
        " tpot_p50_s, ttft_p99_within FROM serving ORDER BY start_ns"
    )
    assert [row[:3] for row in rows] == [("opsuite", "org/m", 1.0)] * 5
    assert [row[3:9] for row in rows] == [
        (0.0, 1.0, 0.0, 10.0, pytest.approx(1 + 10 * 0.5), 0.0),
        (1.0, 1.0, 1.0, 0.0, pytest.approx(10), 0.0),
        (2.0, 1.0, 0.0, 10.0, pytest.approx(10 * 0.5 + 1 + 2), 1.0),
        (3.0, 1.0, 0.0, 0.0, pytest.approx(0), 0.0),
        (4.0, 1.0, 0.0, 0.0, pytest.approx(1), 0.0),
    ]
    nothing = (None, None, None)
    assert [row[9:] for row in rows] == [
        (pytest.approx(0.4), None, None),
        nothing,
        (pytest.approx(1.5), pytest.approx(0.1), None),
        nothing,
        nothing,
    ]


def test_what_is_cut_off_or_odd_hurts_nobody(session: Session, small: Small) -> None:
    """Attributes whose end was cut off, and lists that are none, are no latencies."""
    small.run("s", kind="serving")
    server = small.process(0, role="server")
    small.add("event", server, name="server.seen", attributes='{"source": "vllm"}')
    whole = {"measure": "ttft_s", "low": [0.1], "high": [0.2], "counts": [3], "sum_s": 0.4}
    odd = ['{"measure": "ttft_s", "low": [0', '{"measure": {}, "low": 1}', "[]"]
    for number, text in enumerate([*odd, json.dumps(whole)]):
        small.add("sample", server, name="server.running", step=number, value=1.0)
        small.add("event", server, name="server.latency", subject=number, attributes=text)
    session.show(small.snapshot())
    rows = session.rows("SELECT ttft_p50_s, ttft_p50_within FROM serving WHERE ttft_p50_s > 0")
    assert rows == [(pytest.approx(0.15), [0.1, 0.2])]
    assert session.rows("SELECT count(*) FROM serving") == [(4,)]
    assert session.rows("SELECT measure, requests FROM ttft('last')") == [("ttft_s", 3)]


def test_the_cache_of_our_own_server_is_a_share_of_its_blocks(
    session: Session, served: Small
) -> None:
    server = served.process(0, role="server")
    served.add("event", server, name="engine.ready", at=50, value=200.0, attributes="{}")
    held = {
        "kind": "sample",
        "name": "kv_tokens",
        "second": 1_700_000_000,
        "count": 2,
        "total": 100,
    }
    served.add("rollup", server, **held, least=40.0, most=60.0)
    session.show(served.snapshot())
    [(usage,)] = session.rows("SELECT kv_usage FROM serving ORDER BY start_ns LIMIT 1")
    assert usage == 0.25
