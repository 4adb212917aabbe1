"""Recorded requests: Azure's CSV, Mooncake's JSONL, and JSONL of one's own.

Azure (LLM inference, 2023): ``TIMESTAMP,ContextTokens,GeneratedTokens``. Mooncake: ``timestamp`` in
milliseconds, ``input_length``, ``output_length``. One's own: ``arrival_time_ns`` or ``timestamp``,
``input_toks`` or ``input_length``, ``output_toks`` or ``output_length``. Other fields are ignored.
Times begin with the first arrival; requests may be in any order.
"""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, UsageError
from engine.simulation.serve.request import Request, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MOST_REQUESTS = 5_000_000
MOST_TOKENS = 10_000_000
_LONGEST_LINE = 10_000_000  # characters
_SHOWN = 60
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_UNITS = {"arrival_time_ns": 1e9, "timestamp": 1e3}
_PROMPT = ("input_toks", "input_length")
_OUTPUT = ("output_toks", "output_length")


def read_trace(path: Path, most: int | None = None) -> Workload:
    """Of a file; of ``most`` requests only the first in time.

    Raises:
        UsageError: it cannot be read.
        DataError: it is empty, or a line is not a request: says which line and why.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(_requests(path, _lines(path, file)))
    except OSError as error:
        raise UsageError(
            f"the trace cannot be read: {error.strerror}",
            where=str(path),
            remedy="name a CSV or JSONL file, or a workload such as sharegpt-like@2",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("it is not UTF-8 text", where=str(path), remedy="convert it") from error
    if not found:
        raise DataError("it has no requests", where=str(path), remedy="give another trace")
    found.sort(key=lambda each: each.arrival_s)
    first = found[0].arrival_s
    return Workload(
        name=path.name,
        requests=tuple(
            Request(
                arrival_s=each.arrival_s - first,
                prompt_tokens=each.prompt_tokens,
                output_tokens=each.output_tokens,
            )
            for each in found[:most]
        ),
    )


def _lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > _LONGEST_LINE:
            raise _bad(path, number, f"it is longer than {_LONGEST_LINE:,} characters")
        yield line


def _requests(path: Path, lines: Iterator[str]) -> Iterator[Request]:
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        made = _of_jsonl(path, first, lines)
    else:
        made = _of_csv(path, first, lines)
    for count, request in enumerate(made, 1):
        if count > MOST_REQUESTS:
            raise _bad(path, count, f"more than {MOST_REQUESTS:,} requests")
        yield request


def _of_csv(path: Path, first: str, lines: Iterator[str]) -> Iterator[Request]:
    header = _cells(path, 1, first)
    missing = [name for name in _AZURE if name not in header]
    if missing:
        raise _bad(path, 1, f"neither a JSON object nor a header with {', '.join(missing)}")
    places = [header.index(name) for name in _AZURE]
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        cells = _cells(path, number, line)
        if len(cells) != len(header):
            raise _bad(path, number, f"{len(cells)} values for {len(header)} columns")
        time, prompt, output = (cells[place] for place in places)
        yield Request(
            arrival_s=_date(path, number, time),
            prompt_tokens=_tokens(path, number, _AZURE[1], _number(prompt)),
            output_tokens=_tokens(path, number, _AZURE[2], _number(output)),
        )


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise _bad(path, number, f"not CSV: {error}") from error


def _of_jsonl(path: Path, first: str, lines: Iterator[str]) -> Iterator[Request]:
    for number, line in enumerate(chain((first,), lines), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad(path, number, f"not JSON: {error}") from error
        if not isinstance(given, dict):
            raise _bad(path, number, "not a JSON object")
        yield _of_object(path, number, given)


def _of_object(path: Path, number: int, given: dict[str, Any]) -> Request:
    when = _name(path, number, given, tuple(_UNITS))
    prompt, output = (_name(path, number, given, names) for names in (_PROMPT, _OUTPUT))
    return Request(
        arrival_s=_time(path, number, when, given[when]) / _UNITS[when],
        prompt_tokens=_tokens(path, number, prompt, given[prompt]),
        output_tokens=_tokens(path, number, output, given[output]),
    )


def _name(path: Path, number: int, given: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in given:
            return name
    raise _bad(path, number, f"no {' or '.join(names)}")


def _time(path: Path, number: int, name: str, value: Any) -> float:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(path, number, f"{name} is {_short(value)}: no number")
    if not math.isfinite(value) or abs(value) > 1e20:
        raise _bad(path, number, f"{name} is {_short(value)}: no time")
    return float(value)


def _date(path: Path, number: int, text: str) -> float:
    """Seconds of a time such as 2023-11-16 18:17:03.9799600 (100 ns), which Python cuts at 1 us."""
    whole, _, fraction = text.strip().partition(".")
    try:
        seconds = (datetime.fromisoformat(whole) - datetime(1970, 1, 1)).total_seconds()
        return seconds + (float(f"0.{fraction}") if fraction else 0.0)
    except (ValueError, TypeError) as error:
        raise _bad(path, number, f"TIMESTAMP is {_short(text)}: no time") from error


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.strip().isdigit() and len(text) < 20 else text


def _tokens(path: Path, number: int, name: str, value: Any) -> int:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(path, number, f"{name} is {_short(value)}: no whole number")
    if not 1 <= value <= MOST_TOKENS:
        raise _bad(path, number, f"{name} is {_short(value)}: not in 1 to {MOST_TOKENS:,}")
    return value


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**30 else "too large"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _bad(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"it is not a request: {why}",
        where=f"{path}, line {number}",
        remedy="correct or remove the line",
    )
