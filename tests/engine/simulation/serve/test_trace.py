"""Recorded requests: real traces, both forms of JSONL, and lines that are no requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.errors import DataError, OpsuiteError, UsageError
from engine.simulation.serve.trace import read_trace

TRACES = Path(__file__).parents[5] / "shared" / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason="no traces beside the checkout")
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@needs_traces
def test_azure_is_read_whole_with_its_times() -> None:
    code = read_trace(TRACES / "AzureLLMInferenceTrace_code.csv")
    assert len(code.requests) == 8819
    first, second = code.requests[:2]
    assert (first.arrival_s, first.prompt_tokens, first.output_tokens) == (0.0, 4808, 10)
    assert second.arrival_s == pytest.approx(0.052, abs=1e-6)
    assert code.span_s == pytest.approx(3435.948056, abs=1e-5)


@needs_traces
def test_mooncake_is_read_whole_in_milliseconds() -> None:
    mooncake = read_trace(TRACES / "mooncake_conversation_trace.jsonl")
    assert len(mooncake.requests) == 12_031
    assert mooncake.span_s == pytest.approx(3536.999)
    assert mooncake.requests[0].prompt_tokens == 6758


def test_jsonl_of_ones_own_in_any_order_begins_at_its_first_arrival(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [
        {"arrival_time_ns": 7_500_000_000, "input_toks": 3, "output_toks": 4, "model": "x"},
        {"arrival_time_ns": 5_000_000_000, "input_toks": 1, "output_toks": 2},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    read = read_trace(path)
    assert [each.arrival_s for each in read.requests] == [0.0, 2.5]
    assert [each.prompt_tokens for each in read.requests] == [1, 3]
    assert len(read_trace(path, 1).requests) == 1


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "neither"),
        ("a,b\n", 1, "neither a JSON object nor a header"),
        (AZURE, None, "no requests"),
        (AZURE + "2023-11-16 18:17:03.97,5\n", 2, "2 values for 3 columns"),
        (AZURE + "2023-11-16 18:17:03.97,5,5\nnever,5,5\n", 3, "TIMESTAMP"),
        (AZURE + "2023-11-16 18:17:03+01:00,5,5\n", 2, "TIMESTAMP"),
        (AZURE + "2023-11-16 18:17:03.97,-5,5\n", 2, "ContextTokens"),
        (AZURE + "2023-11-16 18:17:03.97,5,0\n", 2, "GeneratedTokens is 0"),
        (AZURE + "2023-11-16 18:17:03.97,5,99999999\n", 2, "not in 1 to 10,000,000"),
        ('{"timestamp": 0}\n', 1, "no input_toks or input_length"),
        ('{"timestamp": 0, "input_length": 1}\n', 1, "no output_toks or output_length"),
        ('{"input_length": 1, "output_length": 1}\n', 1, "no arrival_time_ns or timestamp"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"x', 2, "not JSON"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n[]', 2, "not a JSON object"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1.5}', 1, "no whole number"),
        ('{"timestamp": 0, "input_length": true, "output_length": 1}', 1, "no whole number"),
        ('{"timestamp": NaN, "input_length": 1, "output_length": 1}', 1, "no time"),
        ('{"timestamp": 1e999, "input_length": 1, "output_length": 1}', 1, "no time"),
        ('{"timestamp": "0", "input_length": 1, "output_length": 1}', 1, "no number"),
        ('{"timestamp": 0, "input_length": 1' + "0" * 99 + ', "output_length": 1}', 1, "not in"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    path = tmp_path / "wrong"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_trace(path)
    assert says in error.value.what
    assert error.value.where == (str(path) if line is None else f"{path}, line {line}")
    assert error.value.remedy


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from((b"", AZURE.encode(), b"{")))
def test_any_bytes_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, begin: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(begin + data)
    try:
        assert read_trace(path).requests
    except OpsuiteError as error:
        assert error.where


def test_no_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path)
