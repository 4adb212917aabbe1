"""A member that fails in the middle of a step, and one whose numbers are not finite."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.instances.step import Choice, Part, Run, Step  # noqa: E402
from engine.serving.sampling.parameters import SamplingParameters  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.instances.step import Done
    from tests.engine.serving.instances.conftest import Fleet

PROMPT = tuple(range(7, 47))
GREEDY = Choice(parameters=SamplingParameters(temperature=0), place=0)


def prompt(
    number: int, at: int, tokens: tuple[int, ...] = PROMPT, master: int | None = None
) -> Part:
    keep = (Run(at, 50 * number, 0, len(tokens)),)
    return Part(
        number=number, tokens=tokens, first=0, cached=(), keep=keep, master=master, choice=GREEDY
    )


def decode(number: int, token: int, holder: int, master: int) -> Part:
    return Part(
        number=number,
        tokens=(token,),
        first=40,
        cached=(Run(holder, 50 * number, 0, 40),),
        keep=(Run(master, 150 - number, 40, 1),),
        master=master,
        choice=GREEDY,
    )


def chosen(done: list[Done]) -> dict[int, int]:
    return {number: token.token for each in done for number, token in each.chosen}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["prefill", "question", "answer"])
def test_who_fails_frees_the_others(
    make_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch, kind: str, layer: int
) -> None:
    """They name it, and compute the next step without it, and one more with it."""
    fleet = make_fleet("llama", 3)
    first = Step(number=fleet.next_step(), instances=(0, 1, 2), parts=(prompt(0, 0), prompt(1, 1)))
    token = chosen(fleet.execute(first))
    assert token.keys() == {0, 1}
    parts = {
        "prefill": (prompt(2, 0),),
        "question": (decode(0, token[0], 0, master=1),),
        "answer": (decode(1, token[1], 1, master=2), decode(0, token[0], 0, master=0)),
    }[kind]
    failing: Any = fleet.instances[1].exchange
    method = {"prefill": "stripe", "question": "ask", "answer": "answer"}[kind]
    whole = getattr(failing, method)

    def fail(at: int, *given: Any, **named: Any) -> Any:
        if at == layer:
            raise MemoryError("as it may happen")
        return whole(at, *given, **named)

    monkeypatch.setattr(failing, method, fail)
    step = Step(number=fleet.next_step(), instances=(0, 1, 2), parts=parts)
    futures = [fleet.threads.submit(each.execute, step) for each in fleet.instances]
    begun = time.monotonic()
    with pytest.raises(MemoryError):
        futures[1].result(timeout=10)
    done = [futures[each].result(timeout=10) for each in (0, 2)]
    assert time.monotonic() - begun < 5  # at once, but for a busy machine
    if kind == "prefill":
        assert [each.lost for each in done] == [1, 1]
    else:  # who needs nothing of it may have come to the end
        assert {each.lost for each in done} in ({1}, {1, None})
    assert all(not each.chosen for each in done if each.lost is not None)
    monkeypatch.undo()
    for group in ((0, 2), (0, 1, 2)):
        again = Step(number=fleet.next_step(), instances=group, parts=(prompt(2, 0),))
        done = fleet.execute(again)
        assert {each.lost for each in done} == {None}
        assert chosen(done)[2] == token[0]  # the same prompt


def test_an_instance_that_is_not_known_is_lost(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet("llama", 2)
    exchange: Any = fleet.instances[0].exchange
    peer = exchange._peers.pop(1)
    try:
        step = Step(number=fleet.next_step(), instances=(0, 1), parts=(prompt(0, 0),))
        assert [each.lost for each in fleet.execute(step)] == [1, 1]
    finally:
        exchange._peers[1] = peer


def test_a_poisoned_request_meets_no_other(make_fleet: Callable[..., Fleet]) -> None:
    """Side by side in stripes, and in decodes whose keys lie elsewhere."""
    fleet = make_fleet("llama", 2)
    bad = (3,) * 40
    networks: list[Any] = [each._network for each in fleet.instances]
    embeddings = [each._model.model.embed_tokens.weight for each in networks]
    saved = embeddings[0][3].clone()
    try:
        for each in embeddings:
            each[3] = float("nan")
        parts = (prompt(0, 0), prompt(1, 1, bad), prompt(2, 1))
        done = fleet.execute(Step(number=fleet.next_step(), instances=(0, 1), parts=parts))
        assert [number for each in done for number in each.failed] == [1]
        token = chosen(done)
        assert token[0] == token[2]
        parts = (decode(0, token[0], 0, 1), decode(1, 5, 1, 0), decode(2, token[2], 1, 0))
        done = fleet.execute(Step(number=fleet.next_step(), instances=(0, 1), parts=parts))
        assert [number for each in done for number in each.failed] == [1]
        token = chosen(done)
        assert token.keys() == {0, 2}
        assert token[0] == token[2]
    finally:
        for each in embeddings:
            each[3] = saved
