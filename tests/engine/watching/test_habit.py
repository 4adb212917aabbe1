"""What a rank is used to call next."""

from __future__ import annotations

from engine.watching.habit import Habit


def test_who_leaves_an_epoch_early_does_what_it_is_not_used_to() -> None:
    habit = Habit()

    def epoch(steps: int) -> list[bool]:
        told = [habit.is_broken_by(name) for _ in range(steps) for name in ("grads", "loss")]
        return [*told, habit.is_broken_by("barrier"), habit.is_broken_by("eval")]

    assert any(epoch(20))
    epoch(20)
    assert not any(epoch(20))
    assert epoch(19)[-2]


def test_what_comes_at_ever_other_distances_surprises_nobody_in_the_end() -> None:
    habit = Habit()
    told = []
    for steps in range(2, 60):
        for _ in range(steps):
            habit.is_broken_by("grads")
        told.append(habit.is_broken_by("log"))
    assert told[5]
    assert not told[-1]
