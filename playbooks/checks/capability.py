"""What this machine has and lacks, and what follows for opsuite.

Every probe tries the real thing where that is cheap (it reads a child's stack, writes a file)
instead of guessing from version numbers.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

_GIB = 1 << 30
_MIN_FREE_BYTES = 2 * _GIB
_PROBE_TIMEOUT_S = 10.0


class Status(StrEnum):
    """How far a capability goes here."""

    OK = "ok"
    LIMITED = "limited"  # opsuite works, with less
    MISSING = "missing"  # the part that needs it does not work
    BROKEN = "broken"  # nothing works before this is mended


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One thing that the machine has or lacks.

    Attributes:
        name: what was looked for.
        detail: what was found.
        consequence: what follows for the user; "" where all is well.
    """

    name: str
    status: Status
    detail: str
    consequence: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"status": str(self.status)}


def probe_machine(home: Path) -> list[Capability]:
    """Look at everything; ``home`` is where opsuite stores its runs."""
    probes: list[Callable[[], Capability]] = [
        _python,
        _cores,
        _memory,
        lambda: _storage(home),
        _engine,
        _gpu,
        _stacks,
        _scheduler_statistics,
        _shared_memory,
    ]
    return [probe() for probe in probes]


def _python() -> Capability:
    found = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"
    return Capability(name="python", status=Status.OK, detail=found)


def _cores() -> Capability:
    total = psutil.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return Capability(
            name="cores",
            status=Status.LIMITED,
            detail=f"{total}; this system does not pin processes to cores",
            consequence="ranks share cores freely, and the slow-rank fault is skipped",
        )
    usable = len(os.sched_getaffinity(0))
    if usable < 2:
        return Capability(
            name="cores",
            status=Status.LIMITED,
            detail=f"{usable} of {total} usable",
            consequence="two ranks share one core: runs are slow and no rank can be pinned",
        )
    return Capability(name="cores", status=Status.OK, detail=f"{usable} of {total} usable")


def _memory() -> Capability:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < _MIN_FREE_BYTES:
        return Capability(
            name="memory",
            status=Status.LIMITED,
            detail=detail,
            consequence="two CPU ranks of the demo need about 2 GiB",
        )
    return Capability(name="memory", status=Status.OK, detail=detail)


def _storage(home: Path) -> Capability:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"\0" * 4096)
        free = shutil.disk_usage(home).free
    except OSError as error:
        return Capability(
            name="storage",
            status=Status.BROKEN,
            detail=f"{home}: {error.strerror or error}",
            consequence="no run can be recorded: set OPSUITE_HOME to a writable directory",
        )
    detail = f"{home}: {free / _GIB:.1f} GiB free"
    if free < _MIN_FREE_BYTES:
        return Capability(
            name="storage",
            status=Status.LIMITED,
            detail=detail,
            consequence="long runs will fill it: set OPSUITE_HOME to a larger disk",
        )
    return Capability(name="storage", status=Status.OK, detail=detail)


def _engine() -> Capability:
    found = {name: _version(name) for name in ("torch", "triton", "safetensors", "tokenizers")}
    detail = ", ".join(f"{name} {number or 'absent'}" for name, number in found.items())
    lacking = [name for name, number in found.items() if number is None and name != "triton"]
    if lacking:
        return Capability(
            name="engine",
            status=Status.MISSING,
            detail=detail,
            consequence="launch, serve and demo need it: pip install 'opsuite[engine]'",
        )
    return Capability(name="engine", status=Status.OK, detail=detail)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> Capability:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Capability(
            name="gpu",
            status=Status.MISSING,
            detail=f"no NVIDIA driver answers ({error})",
            consequence="ranks run on CPU cores over gloo",
        )
    try:
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    if not names:
        return Capability(
            name="gpu",
            status=Status.MISSING,
            detail=f"driver {driver}, no device",
            consequence="ranks run on CPU cores over gloo",
        )
    return Capability(
        name="gpu", status=Status.OK, detail=f"{len(names)}: {', '.join(names)}; driver {driver}"
    )


def _stacks() -> Capability:
    """Read the stack of a child with py-spy; and ask whether strangers' may be read too."""
    places = [str(Path(sys.executable).parent), *os.get_exec_path()]
    py_spy = shutil.which("py-spy", path=os.pathsep.join(places))
    if py_spy is None:
        return _no_stacks("py-spy is not on the path")
    sleeper = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(sleeper, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            dump = subprocess.run(
                [py_spy, "dump", "--nonblocking", "--pid", str(child.pid)],
                capture_output=True,
                text=True,
                timeout=_PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _no_stacks("py-spy did not answer")
        finally:
            child.kill()
    if dump.returncode:
        return _no_stacks(dump.stderr.strip().splitlines()[-1] if dump.stderr else "py-spy failed")
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and scope.exists() and scope.read_text().strip() != "0":
        return Capability(
            name="stacks",
            status=Status.LIMITED,
            detail="of own children only (kernel.yama.ptrace_scope is not 0)",
            consequence="stacks of runs that opsuite did not start need `sysctl"
            " kernel.yama.ptrace_scope=0` or root",
        )
    return Capability(name="stacks", status=Status.OK, detail="py-spy reads live Python processes")


def _no_stacks(reason: str) -> Capability:
    return Capability(
        name="stacks",
        status=Status.MISSING,
        detail=reason,
        consequence="no stacks of live processes: allow ptrace (root, CAP_SYS_PTRACE)",
    )


def _scheduler_statistics() -> Capability:
    if Path("/proc/self/schedstat").exists():
        return Capability(
            name="scheduler statistics", status=Status.OK, detail="run-queue wait per thread"
        )
    return Capability(
        name="scheduler statistics",
        status=Status.MISSING,
        detail="no /proc/self/schedstat",
        consequence="a slow rank is still named, but not that it waited for its core",
    )


def _shared_memory() -> Capability:
    path = Path("/dev/shm")  # noqa: S108 - the POSIX shared memory file system itself
    if not path.is_dir():
        return Capability(
            name="shared memory",
            status=Status.LIMITED,
            detail="no /dev/shm",
            consequence="ranks exchange tensors over loopback",
        )
    free = shutil.disk_usage(path).free
    return Capability(
        name="shared memory", status=Status.OK, detail=f"{free / _GIB:.1f} GiB free in {path}"
    )
