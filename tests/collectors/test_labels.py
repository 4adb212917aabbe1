"""Pins and tags: written whole, changed at once by several, never misread."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from collectors.errors import DataError, UsageError
from collectors.labels import Labels, change_labels, read_labels
from collectors.size import format_size, parse_size

if TYPE_CHECKING:
    from collectors.run import RunDirectory


def test_labels_are_read_as_written(run: RunDirectory) -> None:
    assert read_labels(run.path) == Labels()
    change_labels(run.path, lambda labels: labels.tagged(add=("b", "a=1", "b")))
    change_labels(run.path, lambda labels: replace(labels, pinned=True))
    assert read_labels(run.path) == Labels(pinned=True, tags=("a=1", "b"))
    change_labels(run.path, lambda labels: labels.tagged(remove=("b", "not there")))
    assert read_labels(run.path).tags == ("a=1",)


@pytest.mark.parametrize("tag", ["", "a b", "-x", "a" * 65, "é", "a\n"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(UsageError):
        Labels().tagged(add=(tag,))


def test_changes_at_once_all_count(run: RunDirectory) -> None:
    def add(name: str) -> None:
        change_labels(run.path, lambda labels: labels.tagged(add=(name,)))

    threads = [threading.Thread(target=add, args=(f"t{i}",)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_labels(run.path).tags) == 16


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pinned": 1, "tags": []}', '{"pinned": true, "tags": [1]}', "\xff"]
)
def test_corrupt_labels_are_told_and_not_taken_for_none(run: RunDirectory, text: str) -> None:
    (run.path / "labels.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        read_labels(run.path)


@pytest.mark.parametrize(
    ("text", "size"), [("50GB", 50 * 10**9), ("1.5 mib", 3 << 19), ("12", 12), ("0B", 0)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 parsec", "1e9", "9" * 16])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_sizes_are_written_short() -> None:
    written = [format_size(size) for size in (0, 999, 1000, 51_240_000_000, 5 * 10**15)]
    assert written == ["0 B", "999 B", "1 KB", "51.2 GB", "5000 TB"]
