"""Whatever is computed together, kept where, copied, dropped and decoded by whom: the output is
that of one plain model, token for token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.instances import stored  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.serving.instances.conftest import Fleet, Manager, Text

TIE = 1e-4


def ties(text: Text, fleet: Fleet) -> int:
    """How often the plain model would have chosen otherwise, for scores that are equal but for
    rounding."""
    before = torch.tensor([text.tokens[:-1]])
    given = text.tokens[text.prompt :]
    with torch.inference_mode():
        expected = fleet.model(before)[0, text.prompt - 1 :].argmax(-1).tolist()
        if given == expected:
            return 0
        scores = fleet.exact(before)[0, text.prompt - 1 :]
    found = 0
    for place, (token, other) in enumerate(zip(given, expected, strict=True)):
        if token != other:
            best = scores[place].topk(2).values
            assert float(best[0] - best[1]) < TIE, (text.number, place)
            found += 1
    return found


def test_greedy_output_is_that_of_one_plain_model(
    make_fleet: Callable[..., Fleet],
    make_manager: Callable[..., Manager],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 2 to 4 instances, over 500 schedules; now with scattered runs copied together, now with
    most of them read where they lie."""
    families = ["llama", "mistral", "qwen2", "qwen3"]
    seen = {"schedules": 0, "steps": 0, "tokens": 0, "ties": 0}
    for seed in range(504):
        monkeypatch.setattr(stored, "_LONG", (64, 4)[seed // 12 % 2])
        fleet = make_fleet(
            families[seed % 4],
            2 + seed // 4 % 3,
        )
        manager = make_manager(fleet, seed)
        try:
            manager.run()
            seen["ties"] += sum(ties(text, fleet) for text in manager.texts)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        seen["schedules"] += 1
        seen["steps"] += len(manager.steps)
        seen["tokens"] += sum(text.wanted for text in manager.texts)
    print(seen)
    assert seen["ties"] <= seen["tokens"] / 1000
