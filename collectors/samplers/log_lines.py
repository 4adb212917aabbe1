"""A log as lines of text: what is no text, and what is endless, is made harmless."""

from __future__ import annotations

import re

LONGEST = 4096
"""Characters of a line that are looked at."""
_ENDS = re.compile(rb"\r\n|\n|\r")
_MOST_BEGUN = 64 * 1024
_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,32}[A-Za-z]")
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class LineSplitter:
    """Puts lines together of what is read; of an endless one only the beginning is kept."""

    def __init__(self) -> None:
        self._begun = b""

    def split(self, chunk: bytes) -> list[str]:
        """The lines that are whole now. Progress bars end theirs with a carriage return."""
        *whole, begun = _ENDS.split(self._begun + chunk)
        self._begun = begun[:_MOST_BEGUN]
        return [text(line) for line in whole]

    def rest(self) -> list[str]:
        """What has no end, when nothing more will come."""
        begun, self._begun = self._begun, b""
        return [text(begun)] if begun else []


def text(line: bytes) -> str:
    """A line as text without escapes; bytes that are no UTF-8 become replacement characters."""
    decoded = line[: 4 * LONGEST].decode("utf-8", "replace")
    return _UNSEEN.sub("", _COLOURS.sub("", decoded))[:LONGEST]
