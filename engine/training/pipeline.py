"""Pipeline parallelism: torch's schedules, every computation and every wait recorded.

A stage's micro-batches are ``forward`` and ``backward`` spans. What one rank sends to another is
recorded by both as the collective ``message`` of a group of two, sender first. The receiver's part
lasts from when it had nothing else to do until the message had come; the sender's begins when it
let go, and lasts no time. So the store derives what it derives of all collectives: how long the
receiver waited for the sender (the bubble), and how long for the wire.

Sending and receiving are decoupled (MegaScale, section 3.2): torch's scheduling runtime posts each
send when its tensor is ready and each receive ahead of its use, and waits for sends at the end of
the step only. Torch's plain ``Schedule1F1B`` couples them; it is kept for comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage

from collectors.board import Activity
from collectors.clock import now_ns
from engine.models.partition import partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist
    from torch import Tensor

    from collectors.recorder import Recorder
    from engine.groups.group import Group
    from engine.models.config import ModelConfig
    from engine.models.partition import Part
    from engine.models.transformer import Transformer
    from engine.training.config import ParallelConfig
    from engine.training.phases import Phases

_SCHEDULES = {
    "1f1b": "ScheduleInterleaved1F1B",
    "coupled-1f1b": "Schedule1F1B",
    "gpipe": "ScheduleGPipe",
    "zero-bubble": "ScheduleInterleavedZeroBubble",
    "zbv": "ScheduleZBVZeroBubble",
}


def parts_of(config: ModelConfig, parallel: ParallelConfig, pp_rank: int) -> list[tuple[int, Part]]:
    """The stages of one pipeline rank: their numbers, and what of the model each holds.

    They go round the ranks, or for ``zbv`` there and back.
    """
    n_stages = parallel.pp * parallel.chunks
    stages = partition(config.n_layers, n_stages, head_layers=_head_layers(config))
    numbers = [pp_rank + parallel.pp * chunk for chunk in range(parallel.chunks)]
    if parallel.schedule == "zbv":
        numbers = [pp_rank, n_stages - 1 - pp_rank]
    return [(number, stages[number]) for number in numbers]


def _head_layers(config: ModelConfig) -> float:
    """The output matrix's work, in layers: by the parameters that multiply."""
    width = config.hidden_size
    attention = 2 * width * (width + config.n_kv_heads * config.head_dim)
    return width * config.vocab_size / (attention + 3 * width * config.intermediate_size)


class Pipeline:
    """This rank's stages, driven by a schedule; see :class:`~engine.training.micro_batches`.

    Args:
        parts: this rank's, in the order of :func:`parts_of`.
        group: the pipeline's ranks, first stage first.
        count: micro-batches in a step.
        shape: (B, S) of a micro-batch.
        dtype: of what stages give to each other.
    """

    def __init__(
        self,
        parts: Sequence[Transformer],
        numbers: Sequence[int],
        *,
        parallel: ParallelConfig,
        group: Group,
        count: int,
        shape: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        phases: Phases,
        recorder: Recorder,
    ) -> None:
        assert group.process_group is not None
        self._count = count
        self._traffic = _Traffic(group, recorder)
        self._stages = [
            _Stage(
                part,
                number,
                parallel.pp * parallel.chunks,
                device=device,
                shape=shape,
                dtype=dtype,
                process_group=group.process_group,
                traffic=self._traffic,
                phases=phases,
            )
            for part, number in zip(parts, numbers, strict=True)
        ]
        kind = getattr(pipelining, _SCHEDULES[parallel.schedule])
        several = issubclass(kind, pipelining.schedules.PipelineScheduleMulti)
        self._schedule: Any = kind(
            self._stages if several else self._stages[0],
            n_microbatches=count,
            loss_fn=lambda loss, _: loss.sum() / count,
            scale_grads=False,
        )

    def run(self, tokens: Tensor, targets: Tensor, step: int) -> Tensor:
        """See :class:`~engine.training.micro_batches.MicroBatches`."""
        self._traffic.begin(step)
        for stage in self._stages:
            stage.targets = targets.chunk(self._count)
            stage.step = step
        losses: list[Tensor] = []
        given = (tokens,) if any(stage.is_first for stage in self._stages) else ()
        at_end = any(stage.is_last for stage in self._stages)
        # The stages know their targets: torch only has to see one for each micro-batch.
        target = torch.zeros(self._count) if at_end else None
        self._schedule.step(*given, target=target, losses=losses if at_end else None)
        total = torch.zeros((), device=tokens.device)
        return total + torch.stack(losses).sum().detach() if losses else total


class _Traffic:
    """What a rank sends to and receives from the others of its pipeline, recorded.

    A rank works or waits: whatever lies between two computations is a wait for what the second
    needs, beside some Python.
    """

    def __init__(self, group: Group, recorder: Recorder) -> None:
        self._group = group
        self._recorder = recorder
        self._counts: dict[str, int] = {}
        self._idle_since_ns = 0
        self._step = -1

    def begin(self, step: int) -> None:
        self._step = step
        self._idle_since_ns = now_ns()

    def worked(self) -> None:
        """A computation has ended."""
        self._idle_since_ns = now_ns()

    def received(self, source: int, size_bytes: int) -> None:
        """What the rank at ``source`` sent has come, and is about to be computed with."""
        self._record(source, self._group.rank, size_bytes, self._idle_since_ns, now_ns())

    def sends(self, target: int, size_bytes: int) -> None:
        now = now_ns()
        self._record(self._group.rank, target, size_bytes, now, now)

    def _record(
        self, source: int, target: int, size_bytes: int, start_ns: int, end_ns: int
    ) -> None:
        """Both ends count the messages of a direction alike: they come in the order they went."""
        ranks = self._group.ranks
        group = f"pp[{ranks[source]},{ranks[target]}]"
        sequence = self._counts.get(group, 0)
        self._counts[group] = sequence + 1
        self._recorder.collective(
            "message",
            group=group,
            group_size=2 if self._group.synchronous else 0,
            sequence=sequence,
            size_bytes=size_bytes,
            start_ns=start_ns,
            end_ns=end_ns,
            step=self._step,
        )


class _Stage(PipelineStage):
    """Torch's stage, which records what it does."""

    def __init__(
        self,
        part: Transformer,
        number: int,
        n_stages: int,
        *,
        device: torch.device,
        shape: tuple[int, int],
        dtype: torch.dtype,
        process_group: dist.ProcessGroup,
        traffic: _Traffic,
        phases: Phases,
    ) -> None:
        hidden = _hidden(part, shape, dtype)
        super().__init__(
            part,
            number,
            n_stages,
            device,
            input_args=torch.empty(shape, dtype=torch.int64, device="meta")
            if number == 0
            else hidden,
            output_args=torch.empty((1,), device="meta").requires_grad_()
            if number == n_stages - 1
            else hidden,
            group=process_group,
        )
        self.step = -1
        self.targets: Sequence[Tensor] = ()
        self._shape = shape
        self._traffic = traffic
        self._phases = phases
        self._chunk = -1
        self._nbytes = hidden.nbytes

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        targets = self.targets[self._chunk] if self.is_last else None
        out: Tensor = self.submod(*args, targets=targets, shape=self._shape, **kwargs)
        return out.reshape(1) if self.is_last else out

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self._chunk = fwd_chunk_id
        self._received(self.stage_index - 1)
        with self._phases(Activity.FORWARD, self.step):
            out = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self._traffic.worked()
        return out

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        self._received(self.stage_index + 1)
        with self._phases(Activity.BACKWARD, self.step):
            super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self._traffic.worked()

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        with self._phases(Activity.BACKWARD, self.step):
            super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        self._traffic.worked()

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        operations = super().get_fwd_send_ops(fwd_chunk_id)
        if operations:
            self._traffic.sends(self._place(self.stage_index + 1), self._nbytes)
        return operations

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        operations = super().get_bwd_send_ops(bwd_chunk_id)
        if operations:
            self._traffic.sends(self._place(self.stage_index - 1), self._nbytes)
        return operations

    def _received(self, source: int) -> None:
        """The neighbour's tensor, unless there is no neighbour or it is on this rank."""
        if 0 <= source < self.num_stages and self._place(source) != self.group_rank:
            self._traffic.received(self._place(source), self._nbytes)

    def _place(self, number: int) -> int:
        return self.stage_index_to_group_rank[number]


def _hidden(part: Transformer, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """What one stage gives to the next: [T, D]."""
    tokens = shape[0] * shape[1]
    if part.splits(tokens) and part.tp is not None:
        tokens //= part.tp.size
    return torch.empty(tokens, part.config.hidden_size, dtype=dtype, device="meta").requires_grad_()
