"""Decodes over fixed buffers give what decodes by views give, whatever was in the buffers before.

Triton's interpreter runs the kernel; no GPU has captured a graph of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

PROGRAM = """
import random, torch
from engine.models.config import ModelConfig
from engine.models.transformer import Transformer
from engine.scheduling.iteration import Work
from engine.scheduling.job import Job
from engine.scheduling.limits import Limits
from engine.serving.paged.attention import Part
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.decode_graph import DecodeGraphs
from engine.serving.paged.network import network
from engine.serving.paged.runner import PagedRunner
from engine.serving.paged.storage import Storage

chance = random.Random(3)
torch.manual_seed(3)
limits = Limits(max_batch=8, blocks=60, block_tokens=4)
for window in (0, 7):
    config = ModelConfig(
        vocab_size=260, hidden_size=32, n_layers=2, n_heads=4, n_kv_heads=2,
        intermediate_size=48, max_seq_len=64, window=window,
    )
    model = Transformer(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 1))
    storage = Storage(config, limits, device=torch.device("cpu"), dtype=torch.float32)
    storage.device_blocks.fill_(float("nan"))
    cache = PagedCache(storage, limits, salt=b"")
    runner = PagedRunner(model, cache)
    graphs = DecodeGraphs(
        network(model), cache, window=window, longest=64, capture=lambda body: body
    )
    texts = {n: [chance.randrange(260) for _ in range(chance.randint(1, 30))] for n in range(7)}
    jobs = {
        n: Job(number=n, arrived_s=0, prompt_tokens=len(text), max_tokens=9)
        for n, text in texts.items()
    }
    for n, text in texts.items():
        runner.compute([Work(jobs[n], 0, len(text), gives=True)], texts)
    for _ in range(9):
        some = chance.sample(sorted(texts), chance.randint(1, 7))
        for n in some:
            texts[n].append(chance.randrange(260))
        work = [Work(jobs[n], len(texts[n]) - 1, 1, gives=True) for n in some]
        expected = runner.compute(work, texts)
        parts = [
            Part(table=cache.table(n), first=len(texts[n]) - 1, tokens=1, gives=True) for n in some
        ]
        with torch.inference_mode():
            got = graphs.scores(parts, [texts[n][-1] for n in some])
        print((got - expected).abs().max().item())
"""


def test_fixed_buffers_give_what_views_give() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    far = [float(line) for line in done.stdout.split()]
    assert len(far) == 18
    assert max(far) < 1e-4
