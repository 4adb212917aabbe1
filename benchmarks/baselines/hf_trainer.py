"""Hugging Face's Trainer, eager, on the task of ``plain_loop.py``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.baselines.turns import Turns


class Windows(Dataset[dict[str, Tensor]]):
    """Sequences of the tokens file; labels are shifted by the model."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.tokens = np.memmap(task["tokens"], dtype=task["dtype"], mode="r")
        self.length = task["seq_len"]

    def __len__(self) -> int:
        return int((len(self.tokens) - 1) // self.length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.tokens[index * self.length : (index + 1) * self.length]
        ids = torch.from_numpy(window.astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class InTurn(TrainerCallback):
    """From the end of one step to the end of the next: data, step and all that is between."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.turns.wait()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.turns.end()
        self.turns.wait()


def main() -> None:
    """Train."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=task["vocab_size"],
            hidden_size=task["hidden_size"],
            num_hidden_layers=task["n_layers"],
            num_attention_heads=task["n_heads"],
            num_key_value_heads=task["n_kv_heads"],
            intermediate_size=task["intermediate_size"],
            max_position_embeddings=task["seq_len"],
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    model.set_attn_implementation("sdpa")
    in_turn = InTurn(Turns(sys.argv[2]))
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=task["batch_size"],
            max_steps=task["steps"],
            learning_rate=1e-3,
            weight_decay=0.1,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            use_cpu=True,
            bf16=task["precision"] == "bfloat16",
            save_strategy="no",
            report_to=[],
            logging_steps=1000,
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=Windows(task), callbacks=[in_turn]
        )
        trainer.train()


if __name__ == "__main__":
    main()
