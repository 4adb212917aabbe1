"""Logs become events: the rules, their counts, and files that move, vanish or never end."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from collectors.daemon.journal import Journal
from collectors.daemon.log_watch import LogWatch
from collectors.query.direct import Store
from collectors.samplers.log_events import AGAIN_S, MOST_KINDS, OTHERS, LogEvents
from collectors.samplers.log_lines import LineSplitter
from collectors.samplers.log_rules import match_rule
from collectors.samplers.logs import MOST_BEHIND, MOST_BYTES, LogSampler
from collectors.samplers.sampler import Absent, Happening

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
TRACEBACK = """\
Traceback (most recent call last):
  File "/work/train.py", line 41, in <module>
    main(token="hf_abcdefghijklmnop")
  File "/work/train.py", line 12, in main
    raise ValueError("NCCL error")
ValueError: bad batch 17"""


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (OOM, "out_of_memory"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "cuda_error"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory:"
         " you tried to allocate 8 bytes", "out_of_memory"),
        ("[1234.5] Out of memory: Killed process 77 (python3) total-vm:1kB", "oom_killed"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0", "oom_killed"),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", "xid"),
        ("CUDA error: uncorrectable ECC error encountered", "ecc"),
        ("node7:1:2 [0] NCCL WARN Cuda failure 'invalid device function'", "nccl_warning"),
        ("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:1, remote process",
         "nccl_error"),
        ("[rank3]:[E123] [PG 0 Rank 3] Watchdog caught collective operation timeout: WorkNCCL(",
         "collective_timeout"),
        ("RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:9",
         "connection"),
        ("RuntimeError: The server socket has failed to bind: Address already in use",
         "address_in_use"),
        ("OSError: [Errno 28] No space left on device: '/ckpt/step-10'", "disk_full"),
        ("Segmentation fault (core dumped)", "crash"),
        ("E1123 failed (exitcode: -9) local_rank: 1 (pid: 688) of binary: python", "rank_failed"),
        ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible",
         "shared_memory"),
        ("step 12 loss: nan lr 1e-4", "not_finite"),
        ("{'loss': nan, 'grad_norm': 2.0, 'epoch': 0.1}", "not_finite"),
        ("train/loss=-inf", "not_finite"),
        ("step 3 | grad_norm inf | 2 s", "not_finite"),
        ("loss is tensor(nan, device='cuda:0')", "not_finite"),
        ("loss became nan.", "not_finite"),
        ("found NaN in gradients", "not_finite"),
    ],
)  # fmt: skip
def test_a_line_of_trouble_is_known(line: str, rule: str) -> None:
    found = match_rule(line)
    assert found is not None
    assert found.name == rule


@pytest.mark.parametrize(
    "line",
    [
        "step 100 loss 0.31 banana finance nanosecond nan-safe",
        "loss: info about the loss",
        "loss = inference_loss",
        "INFO loss_nan_to_num=True",
        "NCCL INFO Channel 00/02 : 0 1",
        "using NCCL error handling: TORCH_NCCL_ASYNC_ERROR_HANDLING=3",
        "ECC errors: 0",
        "GPU 0: no uncorrectable ECC error",
        "no nan found, all is well",
        "memory: 12 GiB of 80 GiB, no tracebacks",
        "oomph",
        "",
    ],
)
def test_a_harmless_line_is_none(line: str) -> None:
    found = match_rule(line)
    # What is written of error handling names no error.
    assert found is None or "error handling" in line


def test_counts_come_at_growing_intervals_and_bounded_in_kinds() -> None:
    """5,000 of the same text in a second are told 5 times; numbers do not make it another."""
    events = LogEvents()
    told = [e for i in range(5000) for e in events.feed([f"CUDA error: code {i} at 0x{i:x}"], 1.0)]
    assert [event.count for event in told] == [1, 2, 10, 100, 1000]
    assert {event.line for event in told} == {"CUDA error: code 0 at 0x0"}
    assert events.idle(2.0) == []
    assert [event.count for event in events.idle(2.0 + AGAIN_S)] == [5000]
    assert events.end(99.0) == []
    for index in range(MOST_KINDS * 3):
        word = "".join(chr(97 + int(digit)) for digit in str(index))
        told += events.feed([f"CUDA error {word}"], 3.0)
    assert len({(event.rule, event.line) for event in told}) == MOST_KINDS + 1
    others = [event for event in [*told, *events.end(4.0)] if event.rule == OTHERS]
    assert others[-1].count == 2 * MOST_KINDS + 1


def test_a_traceback_is_one_event_with_its_error_as_the_line() -> None:
    """Also behind torch's prefix, chained, and amid other output; its source lines are no news."""
    events = LogEvents()
    prefixed = [f"[rank2]: {line}" for line in TRACEBACK.splitlines()]
    (plain,) = events.feed([*TRACEBACK.splitlines(), "step 4 loss 1.0"], 0.0)
    assert (plain.rule, plain.line) == ("traceback", "ValueError: bad batch 17")
    assert plain.text.startswith("Traceback") and plain.text.endswith("ValueError: bad batch 17")
    assert "hf_abcdefghijklmnop" not in plain.text
    (again,) = events.feed([*prefixed, "[rank2]: next"], 0.0)
    assert (again.count, again.line) == (2, plain.line)

    chain = [
        *TRACEBACK.splitlines(),
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "/work/train.py", line 50, in <module>',
        "    save()",
        "OSError: [Errno 28] No space left on device",
    ]
    assert events.feed(chain, 0.0) == []
    whole, kind = events.idle(1.0)
    assert (whole.rule, kind.rule) == ("traceback", "disk_full")
    assert "bad batch 17" in whole.text and whole.line.startswith("OSError")
    assert events.feed(["Traceback (most recent call last):"] + ["  x"] * 9000, 2.0) != []


def test_no_line_takes_long_or_breaks_it() -> None:
    """Mebibytes without an end, binary garbage, invalid UTF-8, and what regexes suffer from."""
    events, splitter = LogEvents(), LineSplitter()
    nasty = [
        b"loss" * 300_000,
        b"loss: " + b" " * 1_000_000,
        b"gloo" + b"gloo " * 200_000,
        b"://a:" * 200_000,
        b"NCCL communicator " * 60_000,
        b"token=" * 170_000,
        b"Traceback" * 110_000,
        b" " * 1_000_000 + b"Traceback (most recent call last):",
        os.urandom(1_000_000),
        b"\xff\xfe NCCL error \xff",
        b"\x1b[31mCUDA error\x1b[0m\x1b]0;title\x07",
    ]
    begun = time.process_time()
    told = []
    for line in nasty:
        for at in range(0, len(line), 1 << 18):
            told += events.feed(splitter.split(line[at : at + (1 << 18)]), 0.0)
        told += events.feed(splitter.split(b"\n"), 0.0)
    told += events.end(0.0)
    assert time.process_time() - begun < 2.0
    assert {"nccl_error", "cuda_error"} <= {event.rule for event in told}
    assert all(len(json.dumps(vars_of(event))) < 16_000 for event in told)
    assert "\x1b" not in "".join(event.line for event in told)


def vars_of(event: Any) -> dict[str, Any]:
    return {"line": event.line, "text": event.text}


def rules(found: Any) -> list[tuple[str, int | None, int]]:
    assert all(isinstance(one, Happening) for one in found)
    return [(one.name, one.attributes["rank"], one.attributes["count"]) for one in found]


def test_logs_are_followed_through_appending_cutting_and_replacing(tmp_path: Path) -> None:
    """Nothing is read twice; a line that is torn between two readings is one line."""
    log, launcher = tmp_path / "rank3.log", tmp_path / "launcher.log"
    sampler = LogSampler(tmp_path)
    assert sampler.read() == []
    log.write_bytes(b"hello\nRuntimeError: CUDA er")
    assert sampler.read() == []
    with log.open("ab") as file:
        file.write(b"ror: 1\n")
    launcher.write_text("E1 failed (exitcode: 1) local_rank: 3 (pid: 9)\n", encoding="utf-8")
    assert rules(sampler.read()) == [("log.rank_failed", None, 1), ("log.cuda_error", 3, 1)]
    assert sampler.read() == []
    log.write_bytes(b"CUDA error: 2\n")  # cut to nothing, and begun again
    assert rules(sampler.read()) == [("log.cuda_error", 3, 1)]
    log.rename(tmp_path / "rank3.log.1")
    with (tmp_path / "rank3.log.1").open("ab") as file:
        file.write(b"NCCL error\n")
    log.write_bytes(b"Address already in use\n")
    assert rules(sampler.read()) == [("log.nccl_error", 3, 1), ("log.address_in_use", 3, 1)]
    sampler.close()


def test_absent_denied_and_failing_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told once with its reason, and the other logs are read on."""
    with pytest.raises(Absent, match="No such file"):
        LogSampler(tmp_path / "none").read()
    (tmp_path / "rank0.log").write_text("NCCL error\n", encoding="utf-8")
    (tmp_path / "rank1.log").symlink_to(tmp_path / "rank0.log")
    os.mkfifo(tmp_path / "rank2.log")
    sampler = LogSampler(tmp_path)
    found = rules(sampler.read())
    assert found == [("log.nccl_error", 0, 1), ("log.unreadable", 1, 1), ("log.unreadable", 2, 1)]
    assert sampler.read() == []

    (tmp_path / "rank3.log").write_text("CUDA error\n", encoding="utf-8")
    true_read, true_open = os.pread, os.open

    def failing(file: int, count: int, position: int) -> bytes:
        if os.fstat(file).st_ino == (tmp_path / "rank0.log").stat().st_ino:
            raise OSError(5, "Input/output error")
        return true_read(file, count, position)

    def denied(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("rank4.log"):
            raise PermissionError(13, "Permission denied", str(path))
        return true_open(path, *rest, **more)

    (tmp_path / "rank4.log").write_text("CUDA error\n", encoding="utf-8")
    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(os, "open", denied)
    failed, read, refused = sampler.read()
    assert (failed.name, read.name) == ("log.unreadable", "log.cuda_error")
    assert isinstance(failed, Happening) and isinstance(refused, Happening)
    assert "Input/output error" in failed.attributes["line"]
    assert "Permission denied" in refused.attributes["line"]
    monkeypatch.undo()
    assert rules(sampler.read()) == [("log.cuda_error", 4, 1)]
    sampler.close()


def test_one_reading_is_bounded_and_what_is_passed_over_is_told(tmp_path: Path) -> None:
    log = tmp_path / "rank0.log"
    line = b"x" * 1023 + b"\n"
    log.write_bytes(line * (MOST_BYTES // 1024) + b"CUDA error\n")
    sampler = LogSampler(tmp_path)
    assert sampler.read() == []
    assert rules(sampler.read()) == [("log.cuda_error", 0, 1)]
    with log.open("ab") as file:
        file.truncate(file.tell() + MOST_BEHIND + 1000)  # a hole: no disk is needed
    (skipped,) = sampler.read()
    assert skipped.name == "log.skipped"
    assert isinstance(skipped, Happening)
    assert skipped.attributes["bytes"] == 1000
    sampler.close()


def test_a_run_has_its_logs_events_in_the_view(run: RunDirectory, home: Path) -> None:
    """From the file through the collector's chore to SQL; its end brings the last count."""
    journal = Journal()
    watch = LogWatch(journal)
    log = run.logs / "rank1.log"
    log.write_text(f"{TRACEBACK}\n" + "NCCL error 5\n" * 7, encoding="utf-8")
    watch.look([run])
    with log.open("a", encoding="utf-8") as file:
        file.write("Segmentation fault")
    run.finish("failed", 1)
    watch.look([run])
    watch.look([run])
    watch.look([])
    journal.keep(())
    with Store.open(home) as store:
        rows = store.rows(
            "SELECT rank, log, rule, severity, line, count, text IS NOT NULL, first_ns <= last_ns"
            " FROM log_events ORDER BY rule"
        )
    assert rows == [
        (1, "rank1.log", "crash", "error", "Segmentation fault", 1, False, True),
        (1, "rank1.log", "nccl_error", "error", "NCCL error 5", 7, False, True),
        (1, "rank1.log", "traceback", "error", "ValueError: bad batch 17", 1, True, True),
    ]
