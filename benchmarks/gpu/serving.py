"""Serving on one GPU: decodes replayed as graphs beside the same launched one by one, and swapping
beside the computing."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from engine.models.config import ModelConfig
from engine.models.initialization import initialize
from engine.models.transformer import Transformer
from engine.scheduling.iteration import Work
from engine.scheduling.job import Job
from engine.scheduling.limits import Limits
from engine.serving.paged.attention import MixedAttention, Part
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.decode_graph import DecodeGraphs, capture
from engine.serving.paged.network import network
from engine.serving.paged.runner import PagedRunner
from engine.serving.paged.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.gpu.session import Session

_BATCHES, _DRY_BATCHES = (1, 8, 64), (1, 2, 3)
_CONTEXT, _DRY_CONTEXT = 1024, 20
_ROUNDS, _DRY_ROUNDS = 20, 1
_BLOCK_TOKENS = 16


def time_serving(session: Session) -> list[dict[str, Any]]:
    """One row a batch, and one of swapping."""
    bench = _Bench(session)
    with torch.inference_mode():
        return [*(bench.decode(batch) for batch in bench.batches), bench.swap()]


class _Bench:
    """A Llama of about a billion parameters, or a tiny one, with sequences in its cache."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._context = _DRY_CONTEXT if session.dry else _CONTEXT
        self.batches = _DRY_BATCHES if session.dry else _BATCHES
        shape = (2048, 16, 32, 8, 5632) if not session.dry else (32, 2, 4, 2, 48)
        config = ModelConfig(
            vocab_size=32_000 if not session.dry else 260,
            hidden_size=shape[0],
            n_layers=shape[1],
            n_heads=shape[2],
            n_kv_heads=shape[3],
            intermediate_size=shape[4],
            max_seq_len=2 * self._context,
        )
        model = Transformer(config).requires_grad_(requires_grad=False)
        initialize(model, seed=0)
        self._dtype = torch.float32 if session.dry else torch.bfloat16
        model = model.to(session.device, self._dtype)
        most = max(self.batches)
        blocks = most * (self._context // _BLOCK_TOKENS + 2)
        self._limits = Limits(
            max_batch=most, blocks=blocks, block_tokens=_BLOCK_TOKENS, host_blocks=blocks // 4
        )
        storage = Storage(config, self._limits, device=session.device, dtype=self._dtype)
        storage.device_blocks.zero_()
        self._cache = PagedCache(storage, self._limits, salt=b"bench")
        self._network = network(model)
        self._runner = PagedRunner(model, self._cache)
        self._graphs = DecodeGraphs(
            self._network,
            self._cache,
            window=0,
            longest=2 * self._context,
            capture=(lambda body: body) if session.dry else capture,
        )

    def decode(self, batch: int) -> dict[str, Any]:
        """Milliseconds of one, replayed and launched, and how far their scores are apart."""
        parts = [self._part(number) for number in range(batch)]
        tokens = list(range(1, batch + 1))
        inputs = torch.tensor(tokens, device=self._session.device)

        def launched() -> Tensor:
            return self._network.advance(inputs, MixedAttention(self._cache, parts, 0))

        def replayed() -> Tensor:
            return self._graphs.scores(parts, tokens)

        one, other = replayed().clone(), launched()
        row = {
            "name": f"decode of {batch}, {self._context} tokens of context each",
            "replayed_ms": self._ms(replayed),
            "launched_ms": self._ms(launched),
            "apart": float((one.float() - other.float()).abs().max()),
            "scores": float(other.float().abs().max()),
        }
        for number in range(batch):
            self._cache.free(number)
        return row

    def swap(self) -> dict[str, Any]:
        """Decodes while a sequence goes to the host and comes back, over decodes alone."""
        parts = [self._part(number) for number in range(2)]
        content = self._cache.storage.device_blocks
        before = content[:, :, :, parts[1].table.blocks].clone()

        def decode() -> Tensor:
            return self._graphs.scores(parts[:1], [1])

        alone = self._ms(decode)
        start = time.perf_counter()
        self._cache.offload(1)
        beside = self._ms(decode)
        self._cache.collect([1])
        self._cache.upload(1)
        self._cache.collect([1])
        seconds = time.perf_counter() - start
        after = content[:, :, :, self._cache.table(1).blocks]
        return {
            "name": "decode beside an offload",
            "alone_ms": alone,
            "beside_ms": beside,
            "there_and_back_s": seconds,
            "bytes": 2 * before.nbytes,
            "same": bool(torch.equal(before, after)),
        }

    def _part(self, number: int) -> Part:
        """A sequence whose keys and values are made up."""
        self._cache.begin(number, expected=self._context + 1)
        job = Job(number=number, arrived_s=0.0, prompt_tokens=self._context, max_tokens=1)
        if self._session.dry:
            texts = {number: [1] * self._context}
            self._runner.compute([Work(job, 0, self._context, gives=True)], texts)
        table = self._cache.extend(number, self._context + 1)
        return Part(table=table, first=self._context, tokens=1, gives=True)

    def _ms(self, run: Callable[[], object]) -> float:
        rounds = _DRY_ROUNDS if self._session.dry else _ROUNDS
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            run()
            if not self._session.dry:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return median(seconds[1:]) * 1e3
