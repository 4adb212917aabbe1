"""Live servers under load: does preempting bring what it should, and is the simulator right?

Without ``--trace``: a burst of long requests ahead of short ones, and points at which the simulator
is compared with live servers, all with a small random model on a CPU. With it: the times that one
trace or workload takes on servers of several policies, or on the server at ``--url``.

Load is open loop, from a process of its own. Servers stand side by side and take turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from opsuite.bench.result import Row
from opsuite.bench.serving.agreement import POLICIES, Agreement
from opsuite.bench.serving.burst import measure_burst
from opsuite.bench.serving.calibration import calibrate
from opsuite.bench.serving.live import server_of, servers_of
from opsuite.bench.serving.model import make_model
from opsuite.extras import require_engine
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.profiles.latency import Latency
    from engine.simulation.serve.counterpart import Counterpart
    from opsuite.bench.options import BenchOptions
    from opsuite.bench.serving.calibration import Costs
    from opsuite.bench.serving.measured import Measured

_MAX_BATCH = 4
_LIMITS = ("--max-batch", str(_MAX_BATCH), "--threads", "1")


def measure(rounds: int, options: BenchOptions) -> list[Row]:
    """Of a given load, or of the benchmark's own: an hour."""
    require_engine()
    if options.trace:
        from opsuite.bench.serving.replayed import measure_trace

        return measure_trace(rounds, options)
    if options.url:
        raise UsageError(
            "what is to be sent there?", where="--url", remedy="give --trace, too: FILE, NAME@RATE"
        )
    with tempfile.TemporaryDirectory() as scratch:
        return _measure_own(rounds, Path(scratch))


def _measure_own(rounds: int, scratch: Path) -> list[Row]:
    model, profile = scratch / "random-256", scratch / "profile.json"
    make_model(model)
    known = _write_profile(_first_costs(model), model, profile)
    options = (*_LIMITS, "--profile", str(profile))
    with servers_of(POLICIES, str(model), options) as servers:
        doubles = {policy: _double(policy, model, known) for policy in POLICIES}
        agreement = Agreement(servers, doubles, known, _MAX_BATCH)
        rows = agreement.run(rounds)
        rows = [*measure_burst(servers, rounds), *rows]
    return [*rows, client_row(agreement.measured)]


def _first_costs(model: Path) -> Costs:
    """What all servers are told of their speed."""
    with server_of("fcfs", str(model), _LIMITS) as server:
        narrate("calibrating ...")
        calibrate(server, max_batch=_MAX_BATCH, seed=0)  # warms up: the first passes are slow
        return calibrate(server, max_batch=_MAX_BATCH, seed=1)


def _write_profile(costs: Costs, model: Path, path: Path) -> Latency:
    """The latency that it says."""
    from engine.models.huggingface import load_config
    from engine.profiles.profile import (
        Configuration,
        DecodeSample,
        PrefillSample,
        Profile,
        write_profile,
    )

    configuration = Configuration(
        weight_bytes=((model / "model.safetensors").stat().st_size,),
        prefill=tuple(
            PrefillSample(lengths=(length,), seconds=seconds) for length, seconds in costs.prefills
        ),
        decode=tuple(
            DecodeSample(batch=batch, context_tokens=context, seconds=seconds)
            for batch, context, seconds in costs.decodes
        ),
    )
    profile = Profile(
        model=model.name,
        device="a CPU, 1 thread",
        origin="measured",
        note="through the whole server, from one iteration's beginning to the next",
        kv_bytes_per_token=4 * load_config(model).kv_values,
        configurations=(configuration,),
    )
    write_profile(profile, path)
    return configuration.fit().latency


def _double(policy: str, model: Path, known: Latency) -> Counterpart:
    from collectors.configuration import resolve
    from engine.models.huggingface import load_config
    from engine.serving.config import ServingConfig
    from engine.simulation.serve.counterpart import Counterpart

    given = {"policy": policy, "max_batch": _MAX_BATCH, "threads": 1, "device": "cpu"}
    config = resolve(ServingConfig, [("the benchmark", given)]).value
    return Counterpart(config, load_config(model), known)


def client_row(found: Sequence[Measured]) -> Row:
    """Whether the client could keep up: it must not be what is measured."""
    busiest, latest = max(each.client_busy for each in found), max(each.late_s for each in found)
    return Row(
        name="the load client's own processor time, most of any replay",
        value=busiest,
        unit="of a core",
        rounds=len(found),
        target="< 0.5",
        met=busiest < 0.5,
        note=f"P99 of how late requests were sent, the worst replay: {latest * 1e3:.1f} ms;"
        f" {sum(each.failed for each in found)} requests failed",
    )
