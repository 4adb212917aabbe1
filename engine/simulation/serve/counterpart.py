"""A live server's double in simulated time: the same limits, and a policy that learns as long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.scheduling.registry import Knowledge, make_policy
from engine.scheduling.scheduler import Scheduler
from engine.serving.worker.capacity import limits_of
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.simulator import Simulator

if TYPE_CHECKING:
    from engine.models.config import ModelConfig
    from engine.profiles.latency import Latency
    from engine.serving.config import ServingConfig
    from engine.simulation.serve.life import Life, Outcome

_COPY_BYTES_PER_S = 1e9  # between two places of one memory, by one thread


class Counterpart:
    """Of a server on a CPU, in float32.

    What it is given to serve comes one workload after the other, as to the server: its policy has
    learnt from those before.

    Args:
        known: what the policy knows of the engine's speed.
    """

    def __init__(self, config: ServingConfig, shape: ModelConfig, known: Latency) -> None:
        self._limits = limits_of(
            config,
            shape,
            max_len=config.max_len or shape.max_seq_len,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self._bytes_per_token = shape.kv_values * torch.float32.itemsize
        self._policy = make_policy(config.policy, Knowledge(profile=known))
        self._began_s = 0.0

    def serve(self, workload: Workload, latency: Latency) -> Outcome:
        """Serve it to its end.

        Args:
            latency: how long iterations take now.

        Returns:
            With times since the workload's own beginning.
        """
        began_s = self._began_s
        outcome = Simulator(
            Scheduler(self._policy, self._limits),
            latency,
            _later(workload, began_s),
            bytes_per_token=self._bytes_per_token,
            link_bytes_per_s=_COPY_BYTES_PER_S,
        ).run()
        self._began_s = outcome.end_s
        lives = zip(outcome.lives, workload.requests, strict=True)
        return replace(
            outcome,
            lives=[_since(life, request, began_s) for life, request in lives],
            end_s=outcome.end_s - began_s,
        )


def _later(workload: Workload, seconds: float) -> Workload:
    """A policy's clock never goes back."""
    moved = tuple(
        Request(
            arrival_s=each.arrival_s + seconds,
            prompt_tokens=each.prompt_tokens,
            output_tokens=each.output_tokens,
        )
        for each in workload.requests
    )
    return replace(workload, requests=moved)


def _since(life: Life, request: Request, began_s: float) -> Life:
    assert life.first_s is not None
    assert life.last_s is not None
    return replace(
        life, request=request, first_s=life.first_s - began_s, last_s=life.last_s - began_s
    )
