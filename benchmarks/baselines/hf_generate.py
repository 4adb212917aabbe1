"""transformers generating: what opsuite's engine is compared with.

``python hf_generate.py MODEL TASK.json`` generates whenever a line on stdin says how: ``batched``
(``generate`` on all prompts at once), ``halves`` and ``quarters`` (in batches of the like lengths),
``continuous`` (continuous batching, as ``generate_batch`` does, but each request has its own
length) or ``single`` (the first prompt alone). It answers with one JSON line: seconds, and the new
tokens of each prompt. The task has prompts, how many tokens to generate of each, and of the one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

_BATCHES = {"batched": 1, "halves": 2, "quarters": 4}


class Baseline:
    """A model, and what is to be generated."""

    def __init__(self, directory: Path, task: dict[str, Any]) -> None:
        loading: Any = AutoModelForCausalLM.from_pretrained
        self._model = loading(directory, dtype=torch.float32).eval()
        self._prompts: list[list[int]] = task["prompts"]
        self._lengths: list[int] = task["lengths"]
        self._single: int = task["single"]
        self._continuous: Any = None

    def run(self, how: str) -> list[list[int]]:
        """New tokens of each prompt."""
        if how == "single":
            return self._batch([0], self._single)
        if how == "continuous":
            return self._continuously()
        longest_first = sorted(range(len(self._prompts)), key=lambda each: -self._lengths[each])
        size = len(longest_first) // _BATCHES[how]
        found: dict[int, list[int]] = {}
        for start in range(0, len(longest_first), size):
            some = longest_first[start : start + size]
            texts = self._batch(some, max(self._lengths[each] for each in some))
            found |= {
                each: text[: self._lengths[each]] for each, text in zip(some, texts, strict=True)
            }
        return [found[each] for each in range(len(self._prompts))]

    def _batch(self, some: list[int], tokens: int) -> list[list[int]]:
        """All prompts have one length: nothing is padded."""
        prompts = torch.tensor([self._prompts[each] for each in some])
        output = self._model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        texts: list[list[int]] = output[:, prompts.shape[1] :].tolist()
        return texts

    def _continuously(self) -> list[list[int]]:
        """By the manager that ``generate_batch`` makes, which is kept from one time to the next."""
        make: Any = GenerationConfig  # untyped
        config = make(do_sample=False, eos_token_id=-1, pad_token_id=0)
        with self._model.continuous_batching_context_manager(
            generation_config=config, persistent_manager=True
        ) as manager:
            numbers = {
                manager.add_request(prompt, max_new_tokens=length, eos_token_id=-1): number
                for number, (prompt, length) in enumerate(
                    zip(self._prompts, self._lengths, strict=True)
                )
            }
            found: dict[int, list[int]] = {}
            while len(found) < len(numbers):
                result = manager.get_result(timeout=1)
                if result is None:
                    if not manager.is_running():
                        raise RuntimeError("continuous batching has stopped")
                elif result.is_finished():
                    found[numbers[result.request_id]] = list(result.generated_tokens)
        return [found[number] for number in range(len(numbers))]


def main() -> None:
    """Until stdin ends."""
    torch.set_num_threads(1)
    directory, task = map(Path, sys.argv[1:])
    baseline = Baseline(directory, json.loads(task.read_text(encoding="utf-8")))
    for line in sys.stdin:
        start = time.perf_counter()
        tokens = baseline.run(line.strip())
        seconds = time.perf_counter() - start
        sys.stdout.write(json.dumps({"seconds": seconds, "tokens": tokens}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
