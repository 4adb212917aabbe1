"""Servers that are measured: one of each policy beside the others, or one somewhere."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.settings import Settings
from opsuite.bench.home import bench_home
from opsuite.bench.serving.measured import measured
from opsuite.output import narrate
from opsuite.serving_process import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.simulation.serve.request import Workload
    from opsuite.bench.serving.measured import Measured
    from opsuite.serving_load.client import ServedName

_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class LiveServer:
    """Attributes:
    name: for people: its policy, or where it is.
    run: the run that it records; None where that is not known.
    """

    name: str
    url: str
    served: ServedName
    run: str | None = None

    def measure(self, workload: Workload, *, seed: int) -> Measured:
        """Send it a workload, open loop, from a process of its own.

        Args:
            seed: of the prompts: with another one the server has computed none of them before.
        """
        from opsuite.serving_load.process import Plan, replay
        from opsuite.serving_load.prompts import ask_workload

        questions = ask_workload(workload, seed=seed, tokens=self.served.takes_tokens)
        plan = Plan(url=self.url, served=self.served, questions=questions, patience_s=_PATIENCE_S)
        return measured(workload, replay(plan))


def server_at(url: str) -> LiveServer:
    """Any OpenAI-compatible server; OPSUITE_API_KEY is its key.

    Raises:
        Unreachable: none answers there.
    """
    from opsuite.serving_load.client import look

    served = look(url, api_key=Settings.from_environment().api_key)
    return LiveServer(name=url, url=url, served=served)


@contextmanager
def server_of(policy: str, model: str, options: Sequence[str]) -> Iterator[LiveServer]:
    """One of ours, for the body's duration; its run is in the benchmarks' home."""
    from opsuite.serving_load.client import look

    environment = {"OPSUITE_HOME": str(bench_home()), "OPSUITE_COLLECT": "0"}
    with serving(model, "--policy", policy, *options, environment=environment) as ready:
        served = look(ready.url, api_key=Settings.from_environment().api_key)
        yield LiveServer(name=policy, url=ready.url, served=served, run=ready.run)


@contextmanager
def servers_of(
    policies: Sequence[str], model: str, options: Sequence[str]
) -> Iterator[dict[str, LiveServer]]:
    """One of each policy, side by side: those that are not measured have nothing to do."""
    with ExitStack() as stack:
        servers = {}
        for policy in policies:
            narrate(f"starting a server: {policy} ...")
            servers[policy] = stack.enter_context(server_of(policy, model, options))
        yield servers
