"""Costs of one's own, as JSON: what was measured of a job, before it is put to the test.

Values have the names of :class:`Costs`; seconds are a number, or a pair for a range. ``base`` is
the practice from which values are taken that the file does not give: these count as assumed.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from collectors.errors import DataError, UsageError
from engine.simulation.train.costs import COSTS, Costs
from engine.simulation.train.practices import PRACTICES

if TYPE_CHECKING:
    from pathlib import Path

_BESIDE = ("base", "name", "config", "sources")
_COSTS = TypeAdapter(Costs)


def read_costs(path: Path) -> Costs:
    """Of a file.

    Raises:
        UsageError: there is no such file.
        DataError: its content cannot be used.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the costs cannot be read: {error.strerror}",
            where=str(path),
            remedy="name a JSON file with values such as step_s; docs/simulation.md has an example",
        ) from error
    except ValueError as error:
        raise _unusable(path, f"it is not JSON: {error}", "mend it") from error
    if not isinstance(given, dict):
        raise _unusable(path, "it is not a JSON object", "begin it with {")
    _check_names(path, given)
    base = PRACTICES.get(given.get("base", "ours"))
    if base is None:
        raise _unusable(path, f"no practice is named {given['base']}", f"use {_any(PRACTICES)}")
    return _complete(path, base, given)


def _check_names(path: Path, given: dict[str, Any]) -> None:
    known = (*COSTS, *_BESIDE)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise _unusable(path, f"no cost is named {name}", f"use {close[0] if close else known}")


def _complete(path: Path, base: Costs, given: dict[str, Any]) -> Costs:
    values = {name: _range(base, name, given[name]) for name in COSTS if name in given}
    told = dict(given.get("sources", {}))
    sources = {
        name: told.get(name, f"given: {path.name}")
        if name in values
        else f"assumed: not given; as {base.name}"
        for name in COSTS
    }
    beside = {
        "name": given.get("name", path.stem),
        "config": given.get("config", {}),
        "sources": sources,
    }
    try:
        costs = replace(base, **values, **beside)
        costs = _COSTS.validate_python({name: getattr(costs, name) for name in (*COSTS, *beside)})
        costs.configure(1)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _unusable(path, f"{place}: {first['msg']}", "correct the value") from error
    _check_ranges(path, costs)
    return costs


def _range(base: Costs, name: str, value: Any) -> Any:  # noqa: ANN401 - as it was in the file
    pair = isinstance(getattr(base, name), tuple)
    return (value, value) if pair and isinstance(value, int | float) else value


def _check_ranges(path: Path, costs: Costs) -> None:
    if costs.step_s <= 0 or costs.checkpoint_every_s <= 0:
        raise _unusable(path, "step_s and checkpoint_every_s are above 0", "correct the value")
    for name in COSTS:
        value = getattr(costs, name)
        low, high = value if isinstance(value, tuple) else (value, value)
        if isinstance(low, int | float) and not 0 <= low <= high:
            raise _unusable(
                path, f"{name}: {value} is no range of seconds", "give the lesser one first"
            )


def _unusable(path: Path, what: str, remedy: str) -> DataError:
    return DataError(what, where=str(path), remedy=remedy)


def _any(names: Any) -> str:  # noqa: ANN401 - any names
    return " or ".join(names)
