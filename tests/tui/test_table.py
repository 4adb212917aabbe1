"""Tables are read by people: a line a row."""

from __future__ import annotations

from tui.table import render_table


def test_text_of_several_lines_takes_one() -> None:
    traceback = "Traceback (most recent call last):\n  File 'x', line 3\nValueError: bad batch"
    table = render_table(["line", "text"], [("ValueError: bad batch", traceback), ("one\n", None)])
    head, _, first, second = table.splitlines()
    assert head.split() == ["line", "text"]
    assert first.endswith("Traceback (most recent call last): (+2 lines)")
    assert second.split() == ["one", "n/a"]
