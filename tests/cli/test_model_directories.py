"""Models in and out: `opsuite export RUN --step N`, and `opsuite launch --init-from DIR`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the engine extra")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

from opsuite.cli.main import app  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

MODEL = {"vocab_size": 300, "hidden_size": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2}
TINY = {
    **{f"model.{key}": value for key, value in MODEL.items()},
    **{"model.intermediate_size": 32, "data.seq_len": 32, "train.batch_size": 2},
    **{"parallel.device": "cpu", "optimizer.warmup_steps": 1},
}


def opsuite(home: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments, env={"OPSUITE_HOME": str(home)})
    assert isinstance(result.exit_code, int)
    return result  # type: ignore[return-value]


def launch(home: Path, *arguments: str, **values: object) -> dict[str, object]:
    settings = {**TINY, **values}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = opsuite(home, "launch", "--json", *arguments, *options)
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.stdout)
    return document


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("home")
    (directory / "words.txt").write_text("to be or not to be, that is the question. " * 400)
    return directory


@pytest.fixture(scope="module")
def run_id(home: Path) -> str:
    """Three steps on two ranks, each saved."""
    values = {"train.steps": 3, "checkpoint.every": 1, "checkpoint.keep": 9, "parallel.dp": 2}
    return str(launch(home, "--data", str(home / "words.txt"), **values)["run_id"])


def test_any_step_that_was_kept_becomes_a_model(home: Path, run_id: str, tmp_path: Path) -> None:
    tokens = torch.arange(40).reshape(1, -1)
    logits = []
    for step, options in ((2, ["--output", str(tmp_path / "second")]), (3, [])):
        result = opsuite(home, "export", run_id, "--step", str(step), *options)
        assert result.exit_code == 0, result.output
        directory = result.stdout.strip()
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        transformers.AutoTokenizer.from_pretrained(directory)
        logits.append(model.eval()(tokens).logits)
    assert not torch.equal(*logits)
    ended = home / "runs" / run_id / "model"  # what the run left at its end
    model = transformers.AutoModelForCausalLM.from_pretrained(ended, dtype=torch.float32)
    assert torch.equal(model.eval()(tokens).logits, logits[1])


def test_export_says_what_there_is(home: Path, run_id: str, tmp_path: Path) -> None:
    result = opsuite(home, "export", run_id, "--step", "7")
    assert result.exit_code == 1
    assert "choose one of: 1, 2, 3" in result.stderr
    result = opsuite(home, "export", run_id, "--output", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert opsuite(home, "export", "nobody").exit_code == 3


@pytest.mark.parametrize("mesh", [{"tp": 2, "pp": 2}])
def test_a_run_begins_with_the_weights_of_others(
    home: Path, tmp_path: Path, mesh: dict[str, int]
) -> None:
    """A Qwen 2 by transformers, with biases; its first loss is what transformers says."""
    torch.manual_seed(3)
    config = transformers.Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=False, bos_token_id=5, eos_token_id=5,
    )  # fmt: skip
    theirs = transformers.Qwen2ForCausalLM(config)
    for parameter in theirs.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    origin = tmp_path / "qwen"
    theirs.save_pretrained(origin)
    words = ["--data", str(home / "words.txt"), "--set", "data.seq_len=32"]
    refused = opsuite(home, "launch", "--init-from", str(origin), *words)
    assert refused.exit_code == 1
    assert "tokenizer" in refused.stderr
    before = launch(home, *words, **{"train.steps": 1})
    tokenizer = home / "runs" / str(before["run_id"]) / "model" / "tokenizer.json"
    (origin / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    options = ["launch", "--json", "--init-from", str(origin), *words]
    settings: dict[str, object] = {
        "train.steps": 1,
        "train.batch_size": 2,
        "parallel.device": "cpu",
    }
    settings |= {"train.micro_batches": 2, **{f"parallel.{k}": size for k, size in mesh.items()}}
    options += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = opsuite(home, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    [corpus] = [c for c in (home / "cache" / "corpus").iterdir() if _ends(c) == 5]
    expected = _first_loss(theirs, corpus)
    assert found["loss"] == pytest.approx(expected, abs=1e-4)
    exported = json.loads((home / "runs" / found["run_id"] / "model" / "config.json").read_text())
    assert exported["architectures"] == ["Qwen2ForCausalLM"]
    assert exported["eos_token_id"] == 5


def _tokens(corpus: Path) -> Any:
    import numpy as np

    return torch.from_numpy(np.fromfile(corpus / "tokens.bin", dtype="uint16").astype("int64"))


def _ends(corpus: Path) -> int:
    return int(_tokens(corpus)[-1])


def _first_loss(model: Any, corpus: Path) -> float:
    from engine.training.loader import BatchLoader

    loader = BatchLoader(_tokens(corpus).numpy(), seq_len=32, batch_size=2, seed=0)
    batch = loader.batch(1, 0)
    tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
    logits = model.eval()(tokens).logits.flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits.detach(), targets.flatten()))
