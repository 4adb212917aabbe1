"""Train a tiny language model with Hugging Face's Trainer.

torchrun --nproc-per-node 2 hf_trainer.py --steps 100
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import faults  # type: ignore[import-not-found]  # beside this script
import torch
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Sequences that count up from somewhere."""

    def __init__(self, args: argparse.Namespace, trouble: faults.Trouble, size: int) -> None:
        self.size = size
        self.length = args.sequence_length
        self.batch_size = args.batch_size
        self.trouble = trouble

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.trouble.in_dataset(batch_size=self.batch_size)
        tokens = (index + torch.arange(self.length)) % 256
        return {"input_ids": tokens, "labels": tokens}


class TinyForCausalLM(LlamaForCausalLM):
    """Llama, and what may befall it."""

    trouble: faults.Trouble

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As Llama's."""
        self.trouble.in_forward()
        output = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
        )
        if output.loss is not None and output.loss.requires_grad:
            output.loss.register_hook(self.trouble.in_backward)
        return output

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As Llama's, over a slow network."""
        if self.trouble.args.innocent == "long-checkpoint":
            time.sleep(self.trouble.args.innocent_s)
        super().save_pretrained(save_directory, *args, **kwargs)


class Steps(TrainerCallback):
    """Tells where the training is, and averages a figure of its own."""

    def __init__(self, trouble: faults.Trouble, log_every: int) -> None:
        self.trouble = trouble
        self.log_every = log_every

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The batch is there."""
        self.trouble.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks agree on something now and then."""
        if state.global_step % self.log_every == 0 and torch.distributed.is_initialized():
            figure = torch.ones(1)
            self.trouble.before_collective()
            torch.distributed.all_reduce(figure)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Samples are generated, and somebody looks at them for long."""
        if self.trouble.args.innocent == "long-evaluation":
            time.sleep(1.0)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--evaluate-every", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--watch", action="store_true", help="with opsuite's callback")
    faults.add_arguments(parser)
    return parser.parse_args()


def training_arguments(args: argparse.Namespace) -> TrainingArguments:
    """As anybody would set them on a machine without GPUs."""
    return TrainingArguments(
        output_dir=str(Path(args.checkpoints)),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate,
        dataloader_num_workers=args.workers,
        logging_steps=args.log_every,
        save_strategy="steps" if args.save_every else "no",
        save_steps=args.save_every or 500,
        eval_strategy="steps" if args.evaluate_every else "no",
        eval_steps=args.evaluate_every or None,
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        report_to=[],
        disable_tqdm=True,
        seed=args.seed,
    )


def main() -> None:
    """Train."""
    args = parse_arguments()
    trouble = faults.Trouble(args)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=args.hidden,
        intermediate_size=2 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=args.sequence_length,
    )
    torch.manual_seed(args.seed)
    model = TinyForCausalLM(config)
    model.trouble = trouble
    trouble.compile(model)
    callbacks: list[TrainerCallback] = [Steps(trouble, args.log_every)]
    if args.watch:
        import opsuite

        callbacks.append(opsuite.HuggingFaceCallback())
    trainer = Trainer(
        model=model,
        args=training_arguments(args),
        train_dataset=Counting(args, trouble, args.samples),
        eval_dataset=Counting(args, trouble, 64),
        callbacks=callbacks,
    )
    trainer.train()


if __name__ == "__main__":
    main()
