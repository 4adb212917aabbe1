"""Which benchmarks there are. Each lives in a module of its own, imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from collectors.errors import UsageError
from opsuite.bench.options import BenchOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from opsuite.bench.result import Row


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark.

    Attributes:
        name: as in ``opsuite bench NAME``; its module is ``opsuite.bench.NAME`` (with _ for -).
        question: what it answers.
        rounds: how often it measures unless told.
        has_options: whether its ``measure`` takes :class:`~opsuite.bench.options.BenchOptions`.
    """

    name: str
    question: str
    rounds: int
    has_options: bool = False

    def measure(self, rounds: int | None = None, options: BenchOptions | None = None) -> list[Row]:
        """Run it: the module's ``measure(rounds)`` or ``measure(rounds, options)``.

        Raises:
            UsageError: options for a benchmark that has none.
        """
        if options not in (None, BenchOptions()) and not self.has_options:
            raise UsageError(
                f"bench {self.name} takes --rounds and --json only",
                remedy="leave the other options out",
            )
        module = import_module(f"opsuite.bench.{self.name.replace('-', '_')}")
        measure = cast("Callable[..., list[Row]]", module.measure)
        given = (options,) if self.has_options else ()
        return measure(rounds or self.rounds, *given)


BENCHES = {
    bench.name: bench
    for bench in (
        Bench(
            name="baselines",
            question="does one process train as fast as a plain loop, and as Hugging Face's?",
            rounds=10,
        ),
        Bench(
            name="checkpoint",
            question="how long does training wait for a checkpoint, and is it slower after?",
            rounds=5,
        ),
        Bench(
            name="demo",
            question="is the slow rank named, and nobody in healthy runs?",
            rounds=10,
        ),
        Bench(
            name="drills",
            question="does a job survive every fault, and end with the right state?",
            rounds=1,
            has_options=True,
        ),
        Bench(
            name="endurance",
            question="how much of its time does a job train that loses a rank every minute?",
            rounds=20,
        ),
        Bench(
            name="equivalence",
            question="do all meshes of tp, pp and dp learn what one process learns?",
            rounds=1,
        ),
        Bench(
            name="esp",
            question="do two instances prefill and decode faster than one, at what cost in bytes?",
            rounds=10,
        ),
        Bench(
            name="esp-live",
            question="do live fleets and simulated ones order their policies alike?",
            rounds=5,
        ),
        Bench(
            name="esp-simulated",
            question="what rates does elastic sequence parallelism keep up with, beside others?",
            rounds=3,
        ),
        Bench(
            name="esp-world",
            question="is no request lost while instances of a simulated fleet die?",
            rounds=1,
            has_options=True,
        ),
        Bench(
            name="fusion",
            question="how much of its communication does a tensor-parallel step hide?",
            rounds=20,
        ),
        Bench(
            name="groups",
            question="what does the store have to do while 2,048 ranks start?",
            rounds=3,
        ),
        Bench(
            name="overlap",
            question="how much of its communication does each operator hide?",
            rounds=20,
            has_options=True,
        ),
        Bench(
            name="pipeline",
            question="does a pipeline's bubble shrink as it should with more micro-batches?",
            rounds=5,
        ),
        Bench(name="recorder", question="what does recording cost?", rounds=60),
        Bench(
            name="recovery",
            question="what does a killed rank cost, warm, and by torchrun, cold?",
            rounds=5,
        ),
        Bench(
            name="serve",
            question="what does preempting bring live, and does the simulator foresee it?",
            rounds=5,
            has_options=True,
        ),
        Bench(
            name="serving-chaos",
            question="is no request lost while clients leave and engines are killed?",
            rounds=10,
            has_options=True,
        ),
        Bench(
            name="serving-engine",
            question="does our engine generate faster than transformers on one CPU thread?",
            rounds=5,
        ),
        Bench(
            name="serving-simulated",
            question="what does preempting at every token bring, by workload, load and policy?",
            rounds=3,
        ),
        Bench(name="startup", question="how long does `opsuite --help` take?", rounds=10),
        Bench(
            name="store",
            question="does the trace store keep everything once, at what cost, whatever happens?",
            rounds=5,
        ),
        Bench(
            name="train",
            question="what does each of MegaScale's techniques bring here?",
            rounds=5,
            has_options=True,
        ),
        Bench(
            name="watching",
            question="are trainers that know nothing of opsuite watched rightly, at what cost?",
            rounds=10,
        ),
    )
}


def find_bench(name: str) -> Bench:
    """The benchmark of this name."""
    if name not in BENCHES:
        raise UsageError(f"no benchmark {name!r}", remedy=f"choose one of: {', '.join(BENCHES)}")
    return BENCHES[name]
