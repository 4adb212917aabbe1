"""Workloads by name: drawn by a seed, or pairs and times of recorded traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collectors.errors import UsageError
from engine.simulation.serve.arrivals import arrivals
from engine.simulation.serve.lengths import LENGTHS
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.trace import read_trace

if TYPE_CHECKING:
    from engine.simulation.serve.lengths import Pairs

REQUESTS = 5_000
_MOST = 5_000_000
_AZURE = {
    "azure-conv": "AzureLLMInferenceTrace_conv.csv",
    "azure-code": "AzureLLMInferenceTrace_code.csv",
}
_AZURE_PROMPT, _AZURE_TOTAL = 1024, 2048  # tokens; longer pairs do not fit OPT's context
_MOONCAKE = "mooncake_conversation_trace.jsonl"
NAMES = (*LENGTHS, *_AZURE, "mooncake")


def find_workload(
    name: str,
    *,
    rate: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    cv: float = 1.0,
    traces: Path | None = None,
) -> Workload:
    """A named workload, or a file of requests.

    Args:
        rate: mean arrivals a second; None: a file's own times, and 1.0 of drawn ones.
        requests: how many; None: 5,000, or all of a file.
        cv: coefficient of variation of the gaps between drawn arrivals; 1: a Poisson stream.
        traces: the directory of the recorded traces that ``azure-conv``, ``azure-code`` and
            ``mooncake`` need.

    Raises:
        UsageError: there is no such workload or file, or a recorded trace is not there.
        DataError: a file's content cannot be used.
    """
    if name in LENGTHS or name in _AZURE:
        count = min(requests or REQUESTS, _MOST)
        rng = np.random.default_rng(seed)
        pairs = LENGTHS[name](rng, count) if name in LENGTHS else _azure(rng, count, name, traces)
        return _drawn(name, pairs, arrivals(rng, count, rate or 1.0, cv))
    if name == "mooncake":
        recorded = read_trace(_recorded(_MOONCAKE, traces), requests)
    else:
        recorded = read_trace(_file(name), requests)
    return recorded if rate is None else _scaled(recorded, rate)


def parse_workload(text: str) -> tuple[str, float | None]:
    """``NAME@RATE``, ``FILE@RATE`` or one of both alone: the name, and arrivals a second.

    Raises:
        UsageError: the rate is no number above 0.
    """
    name, at, rate_text = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    try:
        rate = float(rate_text)
    except ValueError:
        rate = float("nan")
    if not 0 < rate <= 1e9:
        raise UsageError(
            f"{rate_text!r} is no rate",
            where=f"--trace {text}",
            remedy=f"write requests a second, such as {name or 'sharegpt-like'}@2.5",
        )
    return name, rate


def _drawn(name: str, pairs: Pairs, times: np.ndarray) -> Workload:
    made = zip(times.tolist(), *(each.tolist() for each in pairs), strict=True)
    return Workload(
        name=name,
        requests=tuple(
            Request(arrival_s=time, prompt_tokens=prompt, output_tokens=output)
            for time, prompt, output in made
        ),
    )


def _azure(rng: np.random.Generator, count: int, name: str, traces: Path | None) -> Pairs:
    """Pairs drawn with replacement from those that are short enough."""
    recorded = read_trace(_recorded(_AZURE[name], traces)).requests
    fitting = [
        (each.prompt_tokens, each.output_tokens)
        for each in recorded
        if each.prompt_tokens <= _AZURE_PROMPT and each.tokens <= _AZURE_TOTAL
    ]
    pairs = np.array(fitting, dtype=np.int64)[rng.integers(len(fitting), size=count)]
    return pairs[:, 0], pairs[:, 1]


def _recorded(file: str, traces: Path | None) -> Path:
    path = None if traces is None else traces / file
    if path is None or not path.exists():
        raise UsageError(
            f"the recorded trace {file} is not there",
            where=str(traces or "no directory of traces"),
            remedy="say where it is with --traces DIRECTORY",
        )
    return path


def _file(name: str) -> Path:
    path = Path(name)
    if not path.exists() and not path.suffix:
        raise UsageError(
            f"no workload and no file is named {name}",
            where="--trace",
            remedy=f"use a file, or one of: {', '.join(NAMES)}",
        )
    return path


def _scaled(recorded: Workload, rate: float) -> Workload:
    try:
        return recorded.scaled(rate)
    except ValueError as error:
        raise UsageError(
            f"{recorded.name} cannot have another rate: {error}",
            where="--trace",
            remedy="leave the rate out",
        ) from error
