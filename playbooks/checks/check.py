"""What a check of a machine measures, and how a measurement is judged.

Measuring (a check's job) and judging (:func:`judge`, a pure function of the figure and of the
baseline stored for this hardware) are apart, so that the rule is tested without any machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

TOLERANCE = 0.3
"""A figure more than this share below its baseline is slow. Far enough from the noise of shared
machines (10-20 %), and near enough for a link at half its width or a clock held down."""


class Verdict(StrEnum):
    """What is to be thought of one subject."""

    OK = "ok"
    SKIPPED = "skipped"  # this machine lacks what the check needs: nothing is known
    SLOW = "slow"  # below its baseline by more than the tolerance
    FAILED = "failed"  # it ended with an error, or not at all
    CORRUPT = "corrupt"  # it computed, copied or sent something wrong

    @property
    def bad(self) -> bool:
        """Whether a host with this verdict should not be used."""
        return self in {Verdict.SLOW, Verdict.FAILED, Verdict.CORRUPT}


_BY_WEIGHT = list(Verdict)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest; skipped ones count only where nothing else is there."""
    found = set(verdicts)
    known = found - {Verdict.SKIPPED} or {Verdict.SKIPPED}
    return max(known, key=_BY_WEIGHT.index)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a check found, before anybody judges it.

    Attributes:
        check: its name.
        subject: the part of the machine that was measured, such as ``core 3`` or ``cuda:0``.
        metric: what all subjects of one kind share a baseline under, such as ``float32 core``.
        value: the figure, the more the better; None where there is none.
        unit: of ``value``.
        fault: a verdict that no baseline changes: corrupt, failed or skipped.
        detail: what else there is to say, one line.
    """

    check: str
    subject: str
    metric: str
    value: float | None = None
    unit: str = ""
    fault: Verdict | None = None
    detail: str = ""

    @property
    def key(self) -> str:
        """What its baseline is stored under."""
        return f"{self.check}/{self.metric}"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """Of what :meth:`to_json` gave; TypeError or ValueError where it is something else."""
        fault = data.pop("fault", None)
        return cls(**data, fault=None if fault is None else Verdict(fault))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """A measurement and what is thought of it.

    Attributes:
        name: of the check.
        baseline: what this hardware reaches when it is well; None: never measured.
        limit: the least ``value`` that is not slow; None without a baseline.
    """

    name: str
    subject: str
    value: float | None
    unit: str
    baseline: float | None
    limit: float | None
    verdict: Verdict
    detail: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"verdict": str(self.verdict)}


class Check(Protocol):
    """Measures one thing on all parts of this machine that have it."""

    @property
    def name(self) -> str:
        """What people and baselines call it."""
        ...

    def measure(self, seconds: float) -> list[Measurement]:
        """Measure for about so long, start-up not counted; what goes wrong is a fault in it."""
        ...


def judge(
    measurement: Measurement, baseline: float | None, tolerance: float = TOLERANCE
) -> CheckResult:
    """The verdict on a measurement: its fault, or how it stands to ``baseline``."""
    limit = None if baseline is None else baseline * (1.0 - tolerance)
    verdict, note = _verdict(measurement, limit)
    return CheckResult(
        name=measurement.check,
        subject=measurement.subject,
        value=measurement.value,
        unit=measurement.unit,
        baseline=baseline,
        limit=limit,
        verdict=verdict,
        detail="; ".join(part for part in (measurement.detail, note) if part),
    )


def _verdict(measurement: Measurement, limit: float | None) -> tuple[Verdict, str]:
    if measurement.fault is not None:
        return measurement.fault, ""
    if measurement.value is None:
        return Verdict.FAILED, "nothing was measured"
    if limit is None:
        return Verdict.OK, "no baseline"
    if measurement.value < limit:
        return Verdict.SLOW, ""
    return Verdict.OK, ""
