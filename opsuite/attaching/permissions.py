"""What an attached look may not see here, what that costs, and what to allow."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opsuite.attaching.targets import Target

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_STATUS = Path("/proc/self/status")
_CAP_SYS_PTRACE = 1 << 19
_PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Something that is missing.

    Attributes:
        what: what is missing, and why.
        lost: what the look is without because of it.
        remedy: what to allow, install or set.
    """

    what: str
    lost: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n  costs: {self.lost}\n  do:    {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Tracer:
    """Who looks: what decides whether a process may be traced.

    Attributes:
        user: name of the user; ``capable``: whether it has CAP_SYS_PTRACE.
        yama: kernel.yama.ptrace_scope; None: no Yama.
    """

    user: str
    capable: bool
    yama: int | None

    @classmethod
    def here(cls) -> Tracer:
        """This process."""
        import psutil

        return cls(
            user=psutil.Process().username(), capable=_is_capable(_STATUS), yama=_yama(_YAMA)
        )

    def remedy(self, owner: str | None) -> str:
        """What lets it trace a process of ``owner``."""
        if owner is not None and owner != self.user and not self.capable:
            users = " or ".join(dict.fromkeys((owner, "root")))
            return f"run `opsuite attach` as {users}"
        if self.yama and not self.capable:
            allowed = "sysctl kernel.yama.ptrace_scope=0"
            return f"run it as root, or allow it with `{allowed}` (it is {self.yama} here)"
        return (
            "run it as root in the namespace of the job; in a container, start that with "
            "--cap-add SYS_PTRACE"
        )


def missing_stacks(errors: Mapping[int, str], targets: Sequence[Target]) -> list[Cost]:
    """What it costs that stacks could not be read; ``errors``: why, and what helps, by rank."""
    by_reason: dict[tuple[str, str], list[int]] = {}
    for target in targets:
        if error := errors.get(target.rank):
            by_reason.setdefault(_reason(error, target.pid), []).append(target.rank)
    return [
        Cost(
            what=f"the stacks of {_ranks(ranks)} cannot be read: {reason}",
            lost="which Python line they are at, so the verdict rests on the other ranks",
            remedy=remedy or "look again",
        )
        for (reason, remedy), ranks in by_reason.items()
    ]


def missing_tool() -> list[Cost]:
    """What it costs that py-spy is not here."""
    if Path(sys.executable).with_name("py-spy").exists() or shutil.which("py-spy"):
        return []
    return [
        Cost(
            what="py-spy is not installed",
            lost="all stacks, and with them the verdict",
            remedy="pip install py-spy",
        )
    ]


def missing_environments(targets: Sequence[Target], tracer: Tracer) -> list[Cost]:
    """What it costs that environments may not be read."""
    hidden = [target for target in targets if target.process.environ is None]
    if not hidden:
        return []
    return [
        Cost(
            what=f"/proc/PID/environ of {_ranks(t.rank for t in hidden)} may not be read",
            lost="their real rank numbers, the world size, and where their flight recorder is",
            remedy=tracer.remedy(hidden[0].process.user),
        )
    ]


def missing_io(ranks: Iterable[int], targets: Sequence[Target], tracer: Tracer) -> list[Cost]:
    """What it costs that /proc/PID/io may not be read."""
    denied = set(ranks)
    owners = [target.process.user for target in targets if target.rank in denied]
    if not denied:
        return []
    return [
        Cost(
            what=f"/proc/PID/io of {_ranks(sorted(denied))} may not be read",
            lost="whether they read or write",
            remedy=tracer.remedy(owners[0] if owners else None),
        )
    ]


def missing_flight_recorder(targets: Sequence[Target]) -> list[Cost]:
    """What it costs that a job has no pipe through which its flight recorder can be asked."""
    known = [target for target in targets if target.process.environ is not None]
    without = [target.rank for target in known if not pipe_prefix(target)]
    if not without:
        return []
    return [
        Cost(
            what=f"{_PIPE} is not set in {_ranks(without)}",
            lost="the flight recorder's account of the collectives (NCCL only; gloo has no pipe)",
            remedy=f"next time start the job with {_PIPE}=/tmp/flight_recorder_ and "
            f"{_SIZES[0]}=2000, or with `opsuite run --`",
        )
    ]


def pipe_prefix(target: Target) -> str:
    """What the name of a rank's flight-recorder pipe begins with; "": it has none."""
    return (target.process.environ or {}).get(_PIPE, "")


def _reason(error: str, pid: int) -> tuple[str, str]:
    """Why, and what helps, without what differs from rank to rank."""
    what, _, rest = error.strip().partition("\n")
    what = what.removeprefix(f"the stack of process {pid} cannot be read: ")
    _, _, remedy = rest.partition("do:")
    return what.replace(f"process {pid}", "the process"), " ".join(remedy.split())


def _ranks(ranks: Iterable[int]) -> str:
    numbers = list(ranks)
    shown = ", ".join(str(rank) for rank in numbers[:8]) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def _is_capable(status: Path) -> bool:
    try:
        text = status.read_text()
    except OSError:
        return False  # not Linux
    sets = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return bool(int(sets.get("CapEff", "0"), 16) & _CAP_SYS_PTRACE)


def _yama(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
