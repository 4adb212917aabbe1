"""The documents that a corpus is made of: which files there are, and how each kind is read."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TEXT_SUFFIXES = frozenset({".txt", ".py", ".md"})
_SUFFIXES = _TEXT_SUFFIXES | {".jsonl", ".parquet"}
KINDS = ", ".join(sorted(_SUFFIXES))
_PARQUET_ROWS = 1024
# Installed packages are not the standard library; its tests are mostly tables of data.
_LIBRARY_EXCLUDES = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests"})


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document's text, or None where its file is not UTF-8."""

    source: Path
    text: str | None


def list_sources(paths: Sequence[str]) -> list[Path]:
    """The files named by ``paths`` (directories recursively); none given: the standard library's.

    Raises:
        UsageError: a path does not exist, is of an unknown kind, or holds no file of a known one.
    """
    if not paths:
        return _standard_library()
    return [source for path in paths for source in _expand(Path(path).expanduser())]


def count_others(paths: Sequence[str]) -> int:
    """How many files in the directories among ``paths`` are of kinds that are not read."""
    directories = [path for path in map(Path, paths) if path.is_dir()]
    files = (p for directory in directories for p in directory.rglob("*") if p.is_file())
    return sum(p.suffix not in _SUFFIXES for p in files)


def read_documents(source: Path) -> Iterator[Document]:
    """The documents of one file.

    Raises:
        DataError: the file cannot be read as what its name says.
    """
    try:
        if source.suffix == ".jsonl":
            yield from _read_jsonl(source)
        elif source.suffix == ".parquet":
            yield from _read_parquet(source)
        else:
            yield _read_text(source)
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror}", where=str(source)) from None


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not _LIBRARY_EXCLUDES.intersection(path.relative_to(root).parts)
    ]


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(
            "no such data", where=str(path), remedy="give --data files or directories that exist"
        )
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise UsageError(
                f"unknown kind of data: {path.suffix or 'a name without suffix'}",
                where=str(path),
                remedy=f"give files that end in one of {KINDS}",
            )
        return [path.absolute()]
    found = sorted(p.absolute() for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
    if not found:
        raise UsageError(
            "no data in the directory", where=str(path), remedy=f"it should hold {KINDS} files"
        )
    return found


def _read_text(source: Path) -> Document:
    try:
        return Document(source=source, text=source.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return Document(source=source, text=None)


def _read_jsonl(source: Path) -> Iterator[Document]:
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Document(source=source, text=_text_field(line, f"{source}:{number}"))


def _text_field(line: bytes, where: str) -> str:
    remedy = 'each line should be a JSON object with the text in "text"'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON line: {error}", where=where, remedy=remedy) from None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError('no string in the field "text"', where=where, remedy=remedy)
    return text


def _read_parquet(source: Path) -> Iterator[Document]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            rows = connection.execute('SELECT "text" FROM read_parquet(?)', [str(source)])
            while batch := rows.fetchmany(_PARQUET_ROWS):
                for (text,) in batch:
                    yield Document(source=source, text=str(text) if text is not None else None)
        except duckdb.BinderException:
            raise DataError(
                'no column "text"', where=str(source), remedy='name the text column "text"'
            ) from None
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"not a readable Parquet file: {reason}",
                where=str(source),
                remedy="write the file again, or leave it out",
            ) from None
