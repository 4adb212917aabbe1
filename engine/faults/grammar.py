"""How a fault is written: ``class:key=value,...``, such as ``slow-rank:rank=1,steps=60-110``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from collectors.errors import UsageError
from engine.faults.keys import keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.faults.keys import Key

_F = TypeVar("_F", bound="Fault")


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """A class of faults; an instance is one fault asked for. Its fields are the grammar's keys.

    The first line of a class's docstring says what it does, for people too.

    Attributes:
        name: how the class is called in the grammar.
        struck: by whom: a rank in its own process, or a process outside of the run.
        needs: what the machine must have for it.
    """

    name: ClassVar[str]
    struck: ClassVar[Literal["rank", "outside"]]
    needs: ClassVar[str] = ""

    @classmethod
    def all_keys(cls) -> list[Key]:
        """In the order in which they are written."""
        return keys_of(cls)

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> Self:
        """Read the values of keys that there are.

        Raises:
            ValueError: one of them cannot be used; the text says which and why.
        """
        given = [key for key in cls.all_keys() if key.name in values]
        return cls(**{key.name: key.read(key.name, values[key.name]) for key in given})

    def __str__(self) -> str:
        pairs = (f"{key.name}={getattr(self, key.name)}" for key in self.all_keys())
        return f"{self.name}:{','.join(pairs)}"

    @property
    def attributes(self) -> dict[str, Any]:
        """The fault as it is recorded."""
        values = {key.name: getattr(self, key.name) for key in self.all_keys()}
        plain = {k: v if isinstance(v, int | float) else str(v) for k, v in values.items()}
        return {"class": self.name, **plain}

    @abstractmethod
    def misfit(self, *, world_size: int, steps: int) -> str:
        """Why the fault cannot happen in such a run, or ""."""


def parse_fault(text: str, classes: Mapping[str, type[_F]]) -> _F:
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
            remedy=f"use one of: {', '.join(spelling(each) for each in classes.values())}",
        )
    values = _values(text, rest, fault)
    try:
        return fault.from_values(values)
    except ValueError as error:
        raise UsageError(str(error), where=f"--fault {text}", remedy=_usage(fault)) from None


def spelling(fault: type[Fault]) -> str:
    """How a fault of a class is written; what may be left out is in brackets."""
    needed = ",".join(f"{key.name}=..." for key in fault.all_keys() if key.needed)
    return f"{fault.name}:{needed}" + "".join(
        f"[,{key.name}={key.default}]" for key in fault.all_keys() if not key.needed
    )


def _values(text: str, rest: str, fault: type[Fault]) -> dict[str, str]:
    known = [key.name for key in fault.all_keys()]
    values: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        problem = ""
        if name not in known:
            problem = f"{fault.name} has no key {name!r}"
        elif name in values:
            problem = f"{name} is given twice"
        elif not equals or not value:
            problem = f"{name} has no value"
        if problem:
            raise UsageError(problem, where=f"--fault {text}", remedy=_usage(fault))
        values[name] = value
    missing = [key.name for key in fault.all_keys() if key.needed and key.name not in values]
    if missing:
        raise UsageError(
            f"{fault.name} needs {', '.join(missing)}",
            where=f"--fault {text}",
            remedy=_usage(fault),
        )
    return values


def _usage(fault: type[Fault]) -> str:
    meanings = "; ".join(f"{key.name} is {key.meaning}" for key in fault.all_keys())
    return f"write {spelling(fault)} where {meanings}"
