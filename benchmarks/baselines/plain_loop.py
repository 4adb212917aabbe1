"""A plain training loop in PyTorch, as one writes it by hand: what opsuite's is compared with.

``python plain_loop.py TASK.json PIPES`` trains, one step whenever it is told (``turns.py``). The
task says the model's shape, the tokens file and how many steps; ``hf_trainer.py`` takes the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from benchmarks.baselines.turns import Turns


class Block(nn.Module):
    """Attention and SwiGLU, each after its norm."""

    def __init__(self, width: int, heads: int, kv_heads: int, inside: int) -> None:
        super().__init__()
        self.size, self.grouped = width // heads, kv_heads < heads
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(2))
        self.q, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, kv_heads * self.size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, inside, bias=False) for _ in range(2))
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.norms[0](x)
        q, k, v = (
            layer(y).view(batch, length, -1, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        x = x + self.o(out.transpose(1, 2).reshape(batch, length, width))
        y = self.norms[1](x)
        down: Tensor = self.down(F.silu(self.gate(y)) * self.up(y))
        return x + down


class Model(nn.Module):
    """A small Llama."""

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__()
        width, heads = task["hidden_size"], task["n_heads"]
        self.embed = nn.Embedding(task["vocab_size"], width)
        self.blocks = nn.ModuleList(
            Block(width, heads, task["n_kv_heads"], task["intermediate_size"])
            for _ in range(task["n_layers"])
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, task["vocab_size"], bias=False)
        angles = torch.outer(
            torch.arange(task["seq_len"], dtype=torch.float32),
            10000.0 ** (-torch.arange(0, width // heads, 2) / (width // heads)),
        )
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        out: Tensor = self.head(self.norm(x))
        return out


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def main() -> None:
    """Train."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    model = Model(task)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    tokens = np.memmap(task["tokens"], dtype=task["dtype"], mode="r")
    length, batch = task["seq_len"], task["batch_size"]
    order = np.random.default_rng(0).permutation((len(tokens) - 1) // length)
    turns = Turns(sys.argv[2])
    for step in range(task["steps"]):
        turns.wait()
        chosen = order[np.arange(step * batch, (step + 1) * batch) % len(order)] * length
        window = torch.from_numpy(tokens[chosen[:, None] + np.arange(length + 1)].astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bfloat16"):
            logits = model(window[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        turns.end()


if __name__ == "__main__":
    main()
