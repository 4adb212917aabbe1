"""Where a stack is: what a thread waits for, and which line of the user's own code that is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import collectors
from playbooks.hang.observation import Frame, RankStack
from playbooks.hang.place import Doing, place_of
from playbooks.hang.sources import with_sources

SITE = "/opt/conda/lib/python3.11/site-packages"
STDLIB = "/opt/conda/lib/python3.11"
TRAIN = Frame(function="train", file="/home/me/train.py", line=88)


def frame(function: str, file: str, line: int = 5, text: str = "") -> Frame:
    return Frame(function=function, file=file, line=line, text=text)


def stack(*frames: Frame, active: bool | None = False, **more: str) -> RankStack:
    return RankStack(rank=0, frames=(*frames, TRAIN), active=active, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inner", "doing"),
    [
        (frame("all_reduce", f"{SITE}/torch/distributed/distributed_c10d.py"), Doing.COLLECTIVE),
        (frame("_engine_run_backward", f"{SITE}/torch/autograd/graph.py"), Doing.COLLECTIVE),
        (frame("step", "/home/me/run.py", text="work.wait()"), Doing.COLLECTIVE),
        (frame("wait", f"{STDLIB}/threading.py", text="waiter.acquire()"), Doing.LOCK),
        (frame("get", f"{STDLIB}/queue.py"), Doing.QUEUE),
        (frame("refill", "/home/me/run.py", text="with self.refill_lock:"), Doing.LOCK),
        (frame("refill", "/home/me/run.py", text="with self.blocks(3):"), Doing.COMPUTING),
        (frame("wait", f"{STDLIB}/subprocess.py"), Doing.PROCESS),
        (frame("run", "/home/me/subprocess.py", text="time.sleep(9)"), Doing.SLEEPING),
        (frame("run", "/home/me/multiprocessing/process.py"), Doing.COMPUTING),
        (frame("get", "/home/me/queue.py"), Doing.COMPUTING),
        (frame("nap", "/home/me/run.py", text="time.sleep(60)"), Doing.SLEEPING),
        (frame("read", "/home/me/run.py", text="data = os.read(pipe, 1)"), Doing.READING),
        (frame("log", "/home/me/run.py", text="return loss.item()"), Doing.DEVICE),
        (frame("synchronize", f"{SITE}/torch/cuda/__init__.py"), Doing.DEVICE),
        (frame("work", "/home/me/run.py", text="x = x @ w"), Doing.COMPUTING),
    ],
)
def test_what_a_thread_does(inner: Frame, doing: Doing) -> None:
    place = place_of([stack(inner)])
    assert place is not None
    assert place.doing is doing
    assert place.user == (inner if inner.file.startswith("/home/me") else TRAIN)


def test_a_backward_pass_that_computes_waits_for_nobody() -> None:
    inner = frame("_engine_run_backward", f"{SITE}/torch/autograd/graph.py")
    place = place_of([stack(inner, active=True)])
    assert place is not None
    assert place.doing is Doing.COMPUTING


def test_a_hook_in_a_thread_of_the_autograd_engine_is_where_the_rank_is() -> None:
    inner = frame("_engine_run_backward", f"{SITE}/torch/autograd/graph.py")
    hook = frame("clip", "/home/me/hooks.py", text="time.sleep(9)")
    started = frame("_bootstrap", f"{STDLIB}/threading.py")
    telemetry = frame("send", "/home/me/telemetry.py", text="time.sleep(9)")
    own = RankStack(
        rank=0, frames=(inner, TRAIN), active=False, others=((telemetry, started), (hook,))
    )
    place = place_of([own])
    assert place is not None
    assert (place.doing, place.user) == (Doing.SLEEPING, hook)


def test_a_loader_is_where_its_worker_is() -> None:
    torch_data = f"{SITE}/torch/utils/data"
    waits = stack(
        frame("select", f"{STDLIB}/selectors.py"),
        frame("_try_get_data", f"{torch_data}/dataloader.py"),
    )
    idle = RankStack(
        rank=0,
        frames=(
            frame("get", f"{STDLIB}/multiprocessing/queues.py"),
            frame("_worker_loop", f"{torch_data}/_utils/worker.py"),
            TRAIN,
        ),
        child="loader worker 7",
    )
    item = frame("__getitem__", "/home/me/data.py", text="return self.file.read(9)")
    at_work = RankStack(
        rank=0,
        frames=(item, frame("fetch", f"{torch_data}/_utils/fetch.py"), TRAIN),
        child="loader worker 8",
    )
    place = place_of([waits, idle, at_work])
    assert place is not None
    assert (place.doing, place.user, place.child) == (Doing.LOADER, item, "loader worker 8")
    alone = place_of([waits, idle])
    assert alone is not None
    assert (alone.doing, alone.user, alone.child) == (Doing.LOADER, TRAIN, "")


def test_a_rank_that_was_spawned_does_not_wait_for_a_process() -> None:
    run = frame("run", f"{STDLIB}/multiprocessing/process.py")
    nap = frame("nap", "/home/me/run.py", text="time.sleep(60)")
    place = place_of([RankStack(rank=0, frames=(nap, run), active=False)])
    assert place is not None
    assert place.doing is Doing.SLEEPING
    joins = (frame("poll", f"{STDLIB}/multiprocessing/popen_fork.py"), frame("join", run.file))
    place = place_of([stack(*joins)])
    assert place is not None
    assert place.doing is Doing.PROCESS


def test_who_waits_for_a_thread_of_its_own_is_told_with_it() -> None:
    waits = frame("wait", f"{STDLIB}/threading.py")
    gets, bootstrap = frame("get", f"{STDLIB}/queue.py"), frame("_bootstrap", waits.file)
    ours = frame("_run", str(Path(collectors.__file__).parent / "daemon" / "chore.py"))
    monitor = frame("run", f"{SITE}/tqdm/_monitor.py")
    produce = frame("produce", "/home/me/data.py", text="lock.acquire()")
    idle = ((waits, ours, bootstrap), (waits, monitor, bootstrap), (waits, bootstrap))
    for others, told in ((idle, ()), ((*idle, (produce, bootstrap)), (produce,))):
        own = RankStack(rank=0, frames=(waits, gets, TRAIN), active=False, others=others)
        place = place_of([own])
        assert place is not None
        assert (place.doing, place.user, place.threads) == (Doing.QUEUE, TRAIN, told)


def test_a_collective_has_the_name_of_its_function_whatever_the_users_line() -> None:
    c10d = f"{SITE}/torch/distributed/distributed_c10d.py"
    wrapper = frame("wrapper", f"{SITE}/torch/distributed/c10d_logger.py")
    library = frame("_inner_loop", f"{SITE}/transformers/trainer.py")
    gather = (frame("all_gather", c10d), wrapper, frame("all_gather_object", c10d), wrapper)
    backward = frame("_engine_run_backward", f"{SITE}/torch/autograd/graph.py")
    waits = frame("step", "/home/me/run.py", text="work.wait()")
    reduces = frame("step", "/home/me/run.py", text="comm.allreduce(x)")
    for frames, name in (
        (gather, "all_gather_object"),
        ((backward,), "backward"),
        ((waits,), ""),
        ((reduces,), "allreduce"),
    ):
        user = frame("main", "/home/me/main.py", text="trainer.train()")
        place = place_of([RankStack(rank=0, frames=(*frames, library, user), active=False)])
        assert place is not None
        assert place.collective == name


def test_opsuites_own_frames_are_not_the_users() -> None:
    ours = Path(collectors.__file__).parents[1] / "engine" / "watching" / "patches.py"
    inner = frame("all_reduce", f"{SITE}/torch/distributed/distributed_c10d.py")
    place = place_of([stack(inner, frame("call", str(ours)))])
    assert place is not None
    assert (place.doing, place.user) == (Doing.COLLECTIVE, TRAIN)


def test_source_lines_are_read_from_files_alone(tmp_path: Path) -> None:
    """A file's name comes from the other process: reading a pipe would hang the watchdog."""
    script, pipe = tmp_path / "a.py", tmp_path / "pipe.py"
    script.write_text("x = 1\nlock.acquire()\n")
    os.mkfifo(pipe)
    names = (str(script), str(pipe), str(tmp_path / "gone.py"), "<string>")
    done: list[tuple[RankStack, ...]] = []
    told = RankStack(rank=0, frames=tuple(frame("f", name, 2) for name in names))
    reader = threading.Thread(target=lambda: done.append(with_sources([told])), daemon=True)
    reader.start()
    reader.join(5)
    ((found,),) = done
    assert [each.text for each in found.frames] == ["lock.acquire()", "", "", ""]
