"""The live campaign: every class of faults at several random moments, in real jobs.

It can be stopped and goes on where it was: each drill's outcome is kept in the benchmarks' home.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from collectors.errors import RunFailed
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.drilling.case import CASES
from opsuite.drilling.drill import Drill, run_drill
from opsuite.drilling.outcome import read_outcome
from opsuite.drilling.small_job import SMALL_JOB
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.training.config import RunConfig
    from opsuite.drilling.case import Case
    from opsuite.drilling.outcome import Outcome

RECOVERED, NAMED = 0.95, 0.90
DEAD_S, HANG_S, PRODUCTIVE_S = 2.0, 10.0, 6.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """One drill.

    Attributes:
        bitwise: whether its weights are those of the run without a fault.
        named: whether it was recorded as what it is.
    """

    case: str
    moment: int
    faults: tuple[str, ...]
    skipped: str
    recovered: bool
    bitwise: bool
    named: bool
    hang: bool
    detected_s: float | None
    productive_s: float | None
    gap: float
    run_id: str


def measure_live(rounds: int) -> list[Row]:
    """Each class ``rounds`` times; what was measured before is not measured again."""
    path = bench_home() / "drills.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {(each.case, each.moment): each for each in _known(path)}
    references: dict[str, str] = {}
    for moment in range(rounds):
        for case in CASES:
            if (case.name, moment) in known:
                continue
            record = _drill(case, moment, references)
            known[case.name, moment] = record
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
            narrate(f"{case.name} {moment + 1}/{rounds}: {_line(record)}")
    wanted = [known[case.name, moment] for case in CASES for moment in range(rounds)]
    return _rows(wanted, rounds)


def _known(path: Path) -> list[Record]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        Record(**{**json.loads(line), "faults": tuple(json.loads(line)["faults"])})
        for line in lines
    ]


def _drill(case: Case, moment: int, references: dict[str, str]) -> Record:
    drill = Drill(
        config=_config(case),
        faults=case.drawn(moment),
        standbys=case.standbys,
        apart=True,
        storage_bytes=case.storage_bytes,
    )
    outcome = _run(drill)
    found = _diagnosed(outcome.run_id) if case.findings else frozenset[str]()
    struck = [each for each in outcome.faults if each.struck_s is not None]
    skipped = next((each.skipped for each in outcome.faults if each.skipped), "")
    return Record(
        case=case.name,
        moment=moment,
        faults=drill.faults,
        skipped=skipped if not struck else "",
        recovered=outcome.status == "finished",
        bitwise=outcome.weights == _reference(case, references) != "",
        named=case.is_named(outcome, found),
        hang=case.hang,
        detected_s=struck[-1].detected_after_s if struck else None,
        productive_s=struck[-1].productive_after_s if struck else None,
        gap=outcome.gap,
        run_id=outcome.run_id,
    )


def _run(drill: Drill) -> Outcome:
    drilled = run_drill(drill, home=bench_home(), narrate=lambda _: None)
    if drilled.result.status in ("stopped", "interrupted"):
        raise RunFailed(
            "the campaign was stopped",
            where=drilled.result.run.run_id,
            remedy="run it again to go on: what is measured is kept",
        )
    return read_outcome(bench_home(), drilled)


def _reference(case: Case, references: dict[str, str]) -> str:
    """Weights of the same job without a fault."""
    key = json.dumps(case.sections, sort_keys=True)
    if key not in references:
        outcome = _run(Drill(config=_config(case), standbys=0))
        references[key] = outcome.weights
    return references[key]


def _diagnosed(run_id: str) -> frozenset[str]:
    from playbooks.diagnosis import diagnose

    with open_store(bench_home()) as store:
        return frozenset(str(each.cause) for each in diagnose(store, run_id).findings)


def _config(case: Case) -> RunConfig:
    from engine.training.config import RunConfig

    layers: list[tuple[str, Any]] = [("the small job", SMALL_JOB), (case.name, case.sections)]
    return resolve(RunConfig, layers).value


def _line(record: Record) -> str:
    if record.skipped:
        return f"skipped: {record.skipped}"
    words = [
        "recovered" if record.recovered else "NOT recovered",
        "bitwise" if record.bitwise else "other bits",
        "named" if record.named else "NOT named",
    ]
    return ", ".join(words)


def _rows(records: Sequence[Record], rounds: int) -> list[Row]:
    done = [each for each in records if not each.skipped]
    dead = [
        e.detected_s for e in done if not e.hang and e.case in _DIES and e.detected_s is not None
    ]
    hangs = [e.detected_s for e in done if e.hang and e.detected_s is not None]
    productive = [e.productive_s for e in done if not e.hang and e.productive_s is not None]
    rows = [
        _share("drills that recover with nobody's help", [e.recovered for e in done], RECOVERED),
        _share("drills that are recorded as what they are", [e.named for e in done], NAMED),
        _share(
            "drills with the weights of the run without a fault", [e.bitwise for e in done], 1.0
        ),
        _time("a dead process is noticed, p99", dead, 99, DEAD_S),
        _time("a hang is noticed, p99", hangs, 99, HANG_S),
        _time("from a fault that kills to the first new step, p50", productive, 50, PRODUCTIVE_S),
    ]
    return rows + [_of_class(case.name, records, rounds) for case in CASES]


_DIES = frozenset({"sigkill", "sigsegv", "oom", "executor-kill"})


def _share(name: str, right: Sequence[bool], least: float) -> Row:
    share = sum(right) / len(right) if right else None
    return Row(
        name=name,
        value=share,
        unit=f"of {len(right)}",
        rounds=len(right),
        target=f">= {least:g}",
        met=None if share is None else share >= least,
    )


def _time(name: str, seconds: Sequence[float], percentile: int, most: float) -> Row:
    value = float(np.percentile(seconds, percentile)) if seconds else None
    return Row(
        name=name,
        value=value,
        unit="s",
        rounds=len(seconds),
        target=f"<= {most:g} s",
        met=None if value is None else value <= most,
    )


def _of_class(name: str, records: Sequence[Record], rounds: int) -> Row:
    mine = [each for each in records if each.case == name]
    done = [each for each in mine if not each.skipped]
    detected = [each.detected_s for each in done if each.detected_s is not None]
    skipped = next((each.skipped for each in mine if each.skipped), "")
    return Row(
        name=f"{name}: recovered of {rounds}",
        value=float(sum(each.recovered for each in done)),
        unit=f"of {len(done)}",
        rounds=len(done),
        note=f"skipped: {skipped}"
        if not done
        else f"named {sum(e.named for e in done)}, bitwise {sum(e.bitwise for e in done)}, noticed"
        f" after {f'{median(detected):.2f} s' if detected else 'nothing had to start again'}",
    )
