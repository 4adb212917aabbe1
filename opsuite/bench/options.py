"""What a benchmark can be told besides how often to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Of benchmarks that have them; others refuse all but these defaults.

    Attributes:
        device: what ranks compute on.
        shapes: "m,n,k" of whole matrices, several with ";"; "": those of the benchmark.
        ranks: how many.
        tune: whether to look for the fastest choices first, which later runs use.
        plot: a PNG to draw.
        simulated: whether to simulate what is measured live else.
        seeds: of a simulation.
        trace: requests to send: FILE, or WORKLOAD@RATE; "": those of the benchmark.
        url: of a server that runs already; "": servers are started.
        policy: of servers that are started, several with ",".
        model: that they serve; "": a small random one.
        max_batch: of these servers.
        requests: of a trace; None: 200, or all of a file.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    shapes: str = ""
    ranks: int = 2
    tune: bool = False
    plot: Path | None = None
    simulated: bool = False
    seeds: int = 10_000
    trace: str = ""
    url: str = ""
    policy: str = "fcfs,skip-join-mlfq,adaptive"
    model: str = ""
    max_batch: int = 4
    requests: int | None = None
