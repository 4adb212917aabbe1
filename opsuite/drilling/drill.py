"""One drill: a job on some hosts of this machine, and faults that strike it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.clock import host_name
from collectors.errors import UsageError
from opsuite.drilling.scene import JobScene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory
    from engine.faults.grammar import Fault
    from engine.faults.host_network import HostNetwork
    from engine.faults.outside import OutsideFault
    from engine.supervision.supervisor import Member, Supervisor
    from engine.training.config import RunConfig
    from engine.training.launcher import LaunchResult


@dataclass(frozen=True, kw_only=True)
class Drill:
    """A job, and what strikes it.

    Attributes:
        config: of the job; its ``resilience.hosts`` are hosts of this machine.
        faults: as the grammar has them, of ranks and from outside.
        standbys: hosts beyond those that train.
        apart: whether hosts get network namespaces of their own, where there can be any.
        storage_bytes: of a file system for the checkpoints alone, which may be filled and frozen;
            0: they lie where the run does.
    """

    config: RunConfig
    faults: tuple[str, ...] = ()
    standbys: int = 1
    apart: bool = False
    storage_bytes: int = 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all."""
        count = self.config.resilience.hosts + self.standbys
        return tuple(f"host{number}" for number in range(count))


@dataclass(kw_only=True)
class Drilled:
    """What was done.

    Attributes:
        skipped: for each fault that was not injected, why.
    """

    result: LaunchResult
    skipped: dict[str, str] = field(default_factory=dict)


def check_drill(drill: Drill) -> list[Fault]:
    """The faults, read.

    Raises:
        UsageError: one is malformed, or outside of the job.
    """
    from engine.faults.grammar import parse_fault
    from engine.faults.registry import FAULTS

    if not drill.config.resilience.recover:
        raise UsageError(
            "the job would end with its first fault",
            where="resilience.recover",
            remedy="set it to true",
        )
    faults = [parse_fault(text, FAULTS) for text in drill.faults]
    ranks, steps = drill.config.parallel.world_size, drill.config.train.steps
    for text, fault in zip(drill.faults, faults, strict=True):
        misfit = fault.misfit(world_size=ranks, steps=steps) or _misfit_of_host(fault, drill.hosts)
        if misfit:
            raise UsageError(misfit, where=f"--faults {text}", remedy="correct the fault")
    return faults


def _misfit_of_host(fault: Fault, hosts: Sequence[str]) -> str:
    from engine.faults.host_fault import HostFault

    named = fault.host if isinstance(fault, HostFault) else "@"
    if named.startswith("@") or named in hosts:
        return ""
    return f"there is no host {named}: the drill has {', '.join(hosts)}"


def run_drill(
    drill: Drill,
    *,
    home: Path,
    narrate: Callable[[str], None],
    watch: Callable[[RunDirectory], AbstractContextManager[object]] = nullcontext,
) -> Drilled:
    """Run the job to its end, whatever strikes it.

    Raises:
        UsageError: see :func:`check_drill`.
    """
    from engine.faults.outside import OutsideFault
    from engine.faults.rank_fault import RankFault
    from engine.supervision.launching import launch_resilient
    from engine.supervision.supervisor import Member

    faults = check_drill(drill)
    inside = [t for t, f in zip(drill.faults, faults, strict=True) if isinstance(f, RankFault)]
    outside = [each for each in faults if isinstance(each, OutsideFault)]
    config = drill.config.model_copy(update={"faults": inside})
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        network = _network(drill, stack, narrate)

        @contextmanager
        def accompany(supervisor: Supervisor) -> Iterator[None]:
            with (
                _storage(drill, supervisor.run),
                _struck(supervisor, outside, network, config, skipped),
            ):
                yield

        result = launch_resilient(
            config,
            home=home,
            command=["opsuite", "drill"],
            narrate=narrate,
            driver=Member(name="driver", address=network.gateway if network else "127.0.0.1"),
            executors=[_member(host, network) for host in drill.hosts],
            accompany=accompany,
            watch=watch,
        )
    return Drilled(result=result, skipped=skipped)


@contextmanager
def _storage(drill: Drill, run: Path) -> Iterator[None]:
    from engine.faults.small_filesystem import SmallFilesystem

    if not drill.storage_bytes or SmallFilesystem.why_unavailable():
        yield  # the faults that need it will say so
        return
    with SmallFilesystem(run / "checkpoints", drill.storage_bytes):
        yield


def _network(drill: Drill, stack: ExitStack, narrate: Callable[[str], None]) -> HostNetwork | None:
    from engine.faults.host_network import HostNetwork

    if not drill.apart:
        return None
    if why := HostNetwork.why_unavailable():
        narrate(f"the hosts share one network: {why}")
        return None
    return stack.enter_context(HostNetwork(drill.hosts))


def _member(host: str, network: HostNetwork | None) -> Member:
    from engine.supervision.supervisor import Member

    if network is None:
        return Member(name=host)
    return Member(
        name=host, address=network.address(host), prefix=tuple(network.command_prefix(host))
    )


@contextmanager
def _struck(
    supervisor: Supervisor,
    faults: Sequence[OutsideFault],
    network: HostNetwork | None,
    config: RunConfig,
    skipped: dict[str, str],
) -> Iterator[None]:
    """While the job runs, each fault in its own time."""
    from engine.faults.marker import Marker, markers_of
    from engine.faults.outside import Injection

    scene = JobScene(supervisor.run, supervisor, network)
    with ExitStack() as stack:
        recorder = stack.enter_context(_recorder(supervisor.run, config))
        injections = []
        for number, fault in enumerate(faults):
            marker = Marker(markers_of(supervisor.run), f"outside-{number}")
            injection = Injection(fault, scene, recorder=recorder, marker=marker)
            injections.append((fault, stack.enter_context(injection)))
        yield
    skipped.update({fault.name: each.skipped for fault, each in injections if each.skipped})


@contextmanager
def _recorder(run: Path, config: RunConfig) -> Iterator[Recorder]:
    from collectors.recorder import Identity, open_recorder

    identity = Identity(
        run_id=run.name,
        role="drill",
        rank=None,
        world_size=config.parallel.world_size,
        host=host_name(),
        coordinates={},
    )
    recorder = open_recorder(run / "spool", identity)
    try:
        yield recorder
    finally:
        recorder.close()
