"""What people say about a run: pinned (never removed by itself), and tags.

``<home>/runs/<run id>/labels.json``: ``{"pinned": true, "tags": ["baseline"]}``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILE = "labels.json"
MOST_TAGS = 64
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/=-]{0,63}")
_LARGEST = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of one run; ``tags`` are sorted and distinct."""

    pinned: bool = False
    tags: tuple[str, ...] = ()

    def tagged(self, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> Labels:
        """With some tags more and some less.

        Raises:
            UsageError: a tag that is none, or too many of them.
        """
        for tag in add:
            if not _TAG.fullmatch(tag):
                raise UsageError(
                    f"{tag!r} cannot be a tag",
                    where="the tags",
                    remedy="use letters, digits and _ . : / = - (64 at most)",
                )
        tags = tuple(sorted((set(self.tags) | set(add)) - set(remove)))
        if len(tags) > MOST_TAGS:
            raise UsageError(f"more than {MOST_TAGS} tags", where="the tags", remedy="remove some")
        return Labels(pinned=self.pinned, tags=tags)

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return {"pinned": self.pinned, "tags": list(self.tags)}


def read_labels(run: Path) -> Labels:
    """The labels of the run at ``run``; none where it has no such file.

    Raises:
        DataError: the file is there and cannot be used. Whoever removes runs must then keep it.
    """
    path = run / FILE
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return Labels()
    except OSError as error:
        raise DataError(f"unreadable labels: {error.strerror}", where=str(path)) from error
    return parse_labels(text, str(path))


def parse_labels(text: bytes, where: str) -> Labels:
    """The labels in a file's content; DataError where they are none."""
    try:
        data = json.loads(text) if len(text) <= _LARGEST else None
    except (ValueError, RecursionError):
        data = None
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("pinned"), bool)
        or not isinstance(tags := data.get("tags"), list)
        or len(tags) > MOST_TAGS
        or not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in tags)
    ):
        raise DataError("corrupt labels", where=where, remedy="repair or remove the file")
    return Labels(pinned=data["pinned"], tags=tuple(sorted(set(tags))))


def change_labels(run: Path, change: Callable[[Labels], Labels]) -> Labels:
    """Replace the labels of the run at ``run``; changes made at once all count.

    Raises:
        StorageError: they cannot be written; nothing is changed.
    """
    try:
        with _alone(run):
            labels = change(read_labels(run))
            write_atomically(run / FILE, json.dumps(labels.to_json()) + "\n")
    except OSError as error:
        raise StorageError.from_os_error(error, f"labelling the run {run.name}") from error
    return labels


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other changes of the same run out meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
