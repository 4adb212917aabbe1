"""What the job's own libraries say of its collectives: flight recorders, and NCCL's report."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError, StorageError
from collectors.redaction import redact_text
from collectors.samplers.dump_pipe import ask_by_pipe
from collectors.samplers.flight_recorder import read_flight_dump
from collectors.samplers.last_collectives import FlightEntry, last_entries
from collectors.samplers.ras import read_ras
from collectors.samplers.sampler import Absent
from opsuite.attaching.permissions import Cost, pipe_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opsuite.attaching.recording import Recording
    from opsuite.attaching.targets import Target, Targets

_WORKERS = 8
_NVIDIA = Path("/dev/nvidiactl")
_RAS_LOG = "nccl-ras.log"


@dataclass(frozen=True, kw_only=True)
class Collectives:
    """What was told.

    Attributes:
        entries: the last collective of each rank and group, by its flight recorder.
        ras: file with NCCL's report; None: there is none.
        costs: what was asked for in vain.
    """

    entries: tuple[FlightEntry, ...] = ()
    ras: Path | None = None
    costs: tuple[Cost, ...] = field(default=())


def ask_for_collectives(recording: Recording, targets: Targets) -> Collectives:
    """Ask every flight recorder that has a pipe, and NCCL where there are devices of its kind."""
    asked = [target for target in targets.ranks if pipe_prefix(target)]
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="flight") as pool:
        answers = list(pool.map(lambda target: _ask(target, targets.world_size), asked))
    costs = [answer for answer in answers if isinstance(answer, Cost)]
    entries = [entry for answer in answers if isinstance(answer, list) for entry in answer]
    for entry in entries:
        recording.tell(entry.rank, "flight_recorder", asdict(entry))
    environ = targets.ranks[0].process.environ
    ras = _report(recording, environ) if environ is not None and _NVIDIA.exists() else None
    if isinstance(ras, Cost):
        costs, ras = [*costs, ras], None
    return Collectives(entries=tuple(entries), ras=ras, costs=tuple(costs))


def _ask(target: Target, world_size: int) -> list[FlightEntry] | Cost:
    try:
        path = ask_by_pipe(
            target.process.environ or {}, target.rank, directory=Path(f"/proc/{target.pid}/cwd")
        )
        return list(last_entries(read_flight_dump(path, target.rank), world_size=world_size))
    except (Absent, OpsuiteError) as error:
        return Cost(
            what=f"no flight recorder of rank {target.rank}: {str(error).splitlines()[0]}",
            lost="which collective it enqueued last, and which was the last to complete",
            remedy=getattr(error, "remedy", "") or "see what is said above",
        )


def _report(recording: Recording, environ: Mapping[str, str]) -> Path | Cost:
    path = recording.run.logs / _RAS_LOG
    try:
        path.write_text(redact_text(read_ras(environ)), encoding="utf-8")
    except OSError as error:
        raise StorageError.from_os_error(error, "keeping NCCL's report") from error
    except (Absent, OpsuiteError) as error:
        return Cost(
            what=f"no report of NCCL's: {str(error).splitlines()[0]}",
            lost="NCCL's own view of peers that are unresponsive or behind",
            remedy="use NCCL 2.24 or newer, with NCCL_RAS_ENABLE not set to 0",
        )
    return path
