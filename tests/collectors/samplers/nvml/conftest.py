"""A machine with GPUs that are named FAKE, and one as it is; each watched by a real process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collectors.run import RunDirectory

HERE = Path(__file__).parent
PROJECT = HERE.parents[3]
GPU_COUNT = 8
LINKS = 4
# An H200 as NVML tells of it; %d is the device's number.
MACHINE: dict[str, object] = {
    "devices": GPU_COUNT,
    "driver": "580.65.06",
    "*.name": "FAKE H200",
    "*.uuid": "GPU-fa4e0000-0000-0000-0000-00000000000%d",
    "*.pci_bus": "00000000:1%d:00.0",
    "*.memory_total": 150_000_000_000,
    "*.memory_used": 90_000_000_000,
    "*.util": 97,
    "*.memory_util": 41,
    "*.power": 612_500,
    "*.power_limit": 700_000,
    "*.fan": 30,
    "*.performance_state": 0,
    "*.temperature.0": 64,
    "*.field.82": 71,
    "*.clock.1": 1755,
    "*.clock.2": 3201,
    "*.clock_max.1": 1980,
    "*.clock_max.2": 3201,
    "*.throttle": 0,
    "*.violation.0": 1_000_000_000,
    "*.violation.1": 0,
    "*.field.138.4294967295": 1024,
    "*.field.139.4294967295": 2048,
    "*.field.197": 1_000_000,
    "*.field.198": 2_000_000,
    "*.field.91": LINKS,
    "*.field.161": 1,
    "*.field.162": 0,
    "*.field.163": 0,
    **{f"*.nvlink.{link}": 1 for link in range(LINKS)},
    "*.ecc.0.0": 3,
    "*.ecc.1.0": 0,
    "*.ecc.0.1": 40,
    "*.ecc.1.1": 1,
    "*.rows": "2 0 0 0",
    "*.pcie_replays": 5,
    "*.pcie_width": 16,
    "*.pcie_width_max": 16,
    "*.pcie_generation": 5,
    "*.pcie_generation_max": 5,
    "*.mig": 0,
    "*.processes": "",
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles the library with some flags, once for each; gives its directory."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake NVML needs a C compiler (gcc or cc)")
    made: dict[tuple[str, ...], Path] = {}

    def compile_it(*flags: str) -> Path:
        if flags not in made:
            made[flags] = tmp_path_factory.mktemp("nvml")
            library = made[flags] / "libnvidia-ml.so.1"
            source = HERE / "fake_nvml.c"
            command = [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", str(library), str(source)]
            subprocess.run(command, check=True)
        return made[flags]

    return compile_it


class Machine:
    """The file that the fake library reads; without one, the machine is as it is."""

    def __init__(self, control: Path | None) -> None:
        self.control = control
        self.says = dict(MACHINE)
        self.set({})

    def set(self, changes: dict[str, object]) -> None:
        """Change what it says, in one piece; None takes a line away."""
        if self.control is None:
            return
        self.says |= changes
        lines = [f"{key} = {value}\n" for key, value in self.says.items() if value is not None]
        written = self.control.with_suffix(".new")
        written.write_text("".join(lines))
        written.replace(self.control)


class Watcher:
    """A process with the sampler, and the machine that it watches."""

    def __init__(
        self, machine: Machine, run: RunDirectory, library: Path | None, slow_s: float
    ) -> None:
        self.machine = machine
        environment = dict(os.environ) | {"PYTHONPATH": str(PROJECT)}
        if library is not None:
            environment |= {"LD_LIBRARY_PATH": str(library)}
            environment |= {"FAKE_NVML": str(machine.control)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", HERE / "nvml_child.py", run.path, str(slow_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read(self, at_s: float) -> dict[str, Any]:
        """What the sampler reads, at a time of the test's choice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{at_s}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that reads has ended"
        told: dict[str, Any] = json.loads(answer)
        return told

    def close(self) -> None:
        """End the process; what it recorded is complete then."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


@pytest.fixture
def watch(
    compiled: Callable[..., Path], run: RunDirectory, tmp_path: Path
) -> Iterator[Callable[..., Watcher]]:
    """Starts a watcher of a fake machine, changed as the test says; ended after it."""
    watchers: list[Watcher] = []

    def start(
        changes: dict[str, object] | None = None,
        *,
        slow_s: float = 0.0,
        flags: tuple[str, ...] = (),
    ) -> Watcher:
        machine = Machine(tmp_path / "machine")
        machine.set(changes or {})
        watchers.append(Watcher(machine, run, compiled(*flags), slow_s))
        return watchers[-1]

    yield start
    for watcher in watchers:
        watcher._process.kill()
        watcher._process.communicate()


@pytest.fixture(params=["fake", "real"])
def any_machine(
    request: pytest.FixtureRequest, run: RunDirectory
) -> Iterator[tuple[str, Watcher, dict[str, Any]]]:
    """A fake machine, and this one where it has a GPU; with what was read first."""
    if request.param == "fake":
        watcher = request.getfixturevalue("watch")()
    else:
        watcher = Watcher(Machine(None), run, None, 0.0)
    try:
        first = watcher.read(0.0)
        if request.param == "real" and first["absent"]:
            pytest.skip(first["absent"])
        yield request.param, watcher, first
    finally:
        watcher._process.kill()
        watcher._process.communicate()
