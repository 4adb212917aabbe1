"""How a fault is written: ``class:key=value,...``, such as ``slow-rank:rank=1,steps=60-110``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from collectors.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.recorder import Recorder
    from engine.step_hook import StepHook

_RANGE = re.compile(r"(\d+)-(\d+)")


class Fault(Protocol):
    """A class of faults; an instance is one fault asked for.

    Attributes:
        name: how the class is called in the grammar.
        parameters: its keys, all of them needed, and what each means.
    """

    name: ClassVar[str]
    parameters: ClassVar[Mapping[str, str]]

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> Self:
        """Read the values of exactly the keys in ``parameters``.

        Raises:
            ValueError: one of them cannot be used; the text says which and why.
        """

    def misfit(self, *, world_size: int, steps: int) -> str:
        """Why the fault cannot happen in such a run, or ""."""

    def unavailable(self, *, unpinned: str) -> str:
        """Why this machine cannot inject it, or ""; ``unpinned``: why ranks are not pinned."""

    def inject(
        self, *, rank: int, cores: Sequence[int], unpinned: str, recorder: Recorder
    ) -> StepHook | None:
        """The part of the fault in ``rank``, which is pinned to ``cores``; None if it has none."""


def parse_fault(text: str, classes: Mapping[str, type[Fault]]) -> Fault:
    """Read one fault.

    Raises:
        UsageError: an unknown class or key, a missing key, or a value that cannot be used.
    """
    name, _, rest = text.partition(":")
    fault = classes.get(name)
    if fault is None:
        raise UsageError(
            f"unknown fault {name!r}",
            where=f"--fault {text}",
            remedy=f"use one of: {', '.join(_describe(c) for c in classes.values())}",
        )
    values = _values(text, rest, fault)
    try:
        return fault.from_values(values)
    except ValueError as error:
        raise UsageError(str(error), where=f"--fault {text}", remedy=_usage(fault)) from None


def whole_number(key: str, text: str) -> int:
    """Read a number from 0."""
    if not text.isdecimal():
        raise ValueError(f"{key}={text} is not a whole number")
    return int(text)


def step_range(key: str, text: str) -> tuple[int, int]:
    """Read ``FIRST-LAST``, both included, from 1."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{key}={text} is not a range FIRST-LAST")
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last:
        raise ValueError(f"{key}={text} is not a range: it should go up, from 1 or more")
    return first, last


def _values(text: str, rest: str, fault: type[Fault]) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        problem = ""
        if key not in fault.parameters:
            problem = f"{fault.name} has no key {key!r}"
        elif key in values:
            problem = f"{key} is given twice"
        elif not equals or not value:
            problem = f"{key} has no value"
        if problem:
            raise UsageError(problem, where=f"--fault {text}", remedy=_usage(fault))
        values[key] = value
    missing = [key for key in fault.parameters if key not in values]
    if missing:
        raise UsageError(
            f"{fault.name} needs {', '.join(missing)}",
            where=f"--fault {text}",
            remedy=_usage(fault),
        )
    return values


def _describe(fault: type[Fault]) -> str:
    return f"{fault.name}:" + ",".join(f"{key}=..." for key in fault.parameters)


def _usage(fault: type[Fault]) -> str:
    keys = "; ".join(f"{key} is {meaning}" for key, meaning in fault.parameters.items())
    return f"write {_describe(fault)} where {keys}"
