"""A process is watched by two lines, and afterwards torch is as it was."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import opsuite
from collectors.board import Activity
from collectors.board_reader import open_boards
from collectors.query.direct import Store
from collectors.samplers.flight_recorder import read_flight_dump

torch = pytest.importorskip("torch", reason="needs the engine extra")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.optim import optimizer as torch_optimizer  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torch.utils.data.dataloader import _BaseDataLoaderIter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_watchdog(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("OPSUITE_WATCHDOG", "0")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only."""
    store = torch._C._distributed_c10d.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def hooks() -> list[Any]:
    """Everything that watching changes."""
    return [
        torch.autograd.backward,
        torch.save,
        dist.all_reduce,
        dist.distributed_c10d.barrier,
        DistributedDataParallel.forward,
        _BaseDataLoaderIter.__next__,
        sys.excepthook,
        dict(torch_optimizer._global_optimizer_pre_hooks),
        dict(torch_optimizer._global_optimizer_post_hooks),
    ]


def train(model: nn.Module, optimizer: torch_optimizer.Optimizer, steps: int) -> None:
    for batch in DataLoader(torch.randn(steps, 8, 16), batch_size=None):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def test_two_lines_record_steps_phases_and_collectives(alone: None, home: Path) -> None:
    before, threads = hooks(), threading.active_count()
    model = DistributedDataParallel(nn.Linear(16, 16))
    optimizer = torch.optim.AdamW(model.parameters())
    watch = opsuite.watch(model, optimizer)
    assert opsuite.watch(model) is watch, "a second call adds to the first"
    train(model, optimizer, 5)
    with torch.no_grad():
        model.eval()(torch.randn(8, 16))
    dist.all_reduce(torch.ones(1000))
    watch.stop()
    assert hooks() == before
    assert threading.active_count() == threads
    assert not model._forward_pre_hooks
    train(model, optimizer, 3)
    with Store.open(home) as store:
        run = [watch.run_id]
        steps = store.rows("SELECT step FROM steps WHERE run_id = ? ORDER BY step", run)
        assert steps == [(1,), (2,), (3,), (4,), (5,)]
        phases = dict(
            store.rows(
                "SELECT phase, count(*) FROM phases WHERE run_id = ? AND step <= 5 GROUP BY ALL",
                run,
            )
        )
        for phase in ("data", "forward", "backward", "optimizer"):
            assert phases[phase] == 5, phase
        (split,) = store.rows(
            "SELECT max(abs(s.duration_s - p.total_s)) FROM steps AS s JOIN (SELECT step,"
            " sum(duration_s) AS total_s FROM phases WHERE run_id = ?1 GROUP BY step) AS p"
            " USING (step) WHERE s.run_id = ?1",
            run,
        )
        assert split[0] < 1e-3, "the phases are all of the step"
        assert store.rows(
            'SELECT name, "group", group_size, size_bytes FROM collectives WHERE run_id = ?', run
        ) == [("all_reduce", "world[0]", 1, 4000)]


def test_while_it_hangs_the_board_says_where_and_the_dump_answers(alone: None, home: Path) -> None:
    model = nn.Linear(4, 4)
    watch = opsuite.watch(model, torch.optim.SGD(model.parameters()))
    assert watch.run_id is not None
    (board,) = open_boards(home / "runs" / watch.run_id / "boards")
    entered = dist.barrier  # the watched one
    seen = []

    def look() -> None:
        seen.append(board.read().collective)

    handle = model.register_forward_hook(lambda *_: look())
    entered()
    model(torch.randn(1, 4))
    with opsuite.busy():
        assert board.read().activity is Activity.DECLARED
    assert seen == [None], "a barrier that is over is not shown"
    number = board.ask()
    for _ in range(40):
        if board.read().answered == number:
            break
        threading.Event().wait(0.05)
    dump = read_flight_dump(Path(board.facts.flight_file))
    handle.remove()
    watch.stop()
    assert board.read().left is True
    assert dump.records[-1].operation == "barrier"


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed on Linux")
def test_afterwards_no_file_is_open(alone: None, home: Path) -> None:
    model = nn.Linear(16, 16)
    optimizer = torch.optim.SGD(model.parameters())
    watch = opsuite.watch(model, optimizer)
    train(model, optimizer, 2)
    watch.stop()
    links = list(Path("/proc/self/fd").iterdir())
    assert not [
        path for link in links if link.is_symlink() and home in (path := link.readlink()).parents
    ]


def test_copies_and_pickles_of_a_watched_model_are_not_watched(home: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    optimizer = torch.optim.AdamW(model.parameters())
    watch = opsuite.watch(model, optimizer)
    batch = torch.randn(3, 4)
    expected = model(batch)
    average = copy.deepcopy(model)
    copy.deepcopy(optimizer)
    torch.save(model, tmp_path / "model.pt")
    watch.stop()
    program = (
        "import sys, torch; sys.modules['opsuite'] = sys.modules['engine'] = None;"
        f" torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)(torch.ones(3, 4))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert torch.equal(average(batch), expected)
    with Store.open(home) as store:
        (count,) = store.rows(
            "SELECT count(*) FROM spans WHERE run_id = ? AND name = 'forward'", [watch.run_id]
        )
    assert count == (1,)


def double(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A hook of the user's."""
    return output * 2


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("kind", ["plain", "recurrent"])  # an RNN has a __getstate__ of its own
def test_copies_have_the_users_hooks_and_none_of_ours(kind: str, home: Path) -> None:
    made: dict[str, nn.Module] = {"plain": nn.Linear(4, 4), "recurrent": nn.GRU(4, 4)}
    model = made[kind]
    watch = opsuite.watch(model, torch.optim.SGD(model.parameters()))
    torch.jit.script(copy.deepcopy(model))
    torch.jit.script(pickle.loads(pickle.dumps(model)))
    theirs = model.register_forward_hook(double, always_call=True)
    twin = copy.deepcopy(torch.optim.swa_utils.AveragedModel(model).module)
    assert len(model._forward_hooks) == 2, "the model itself stays watched"
    watch.stop()
    assert list(twin._forward_hooks.items()) == [(theirs.id, double)]
    assert list(twin._forward_hooks_always_called) == [theirs.id]
    assert not twin._forward_pre_hooks


_WITHOUT_GUARD = """
import os, sys
import torch, torch.multiprocessing as mp
from torch.utils.data import DataLoader
import opsuite

model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
opsuite.watch(model, optimizer)

class Data:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        assert opsuite.watch(model, optimizer).run_id is None
        return torch.ones(4)

def rank(_):
    assert opsuite.watch(model, optimizer).run_id is not None
    model(torch.ones(4)).sum().backward()
    optimizer.step()

if __name__ == "__main__":
    for context in ("spawn", "fork"):
        for batch in DataLoader(Data(), num_workers=1, multiprocessing_context=context):
            model(batch).sum().backward()
            optimizer.step()
    mp.spawn(rank)
"""


@pytest.mark.slow
def test_workers_are_no_runs_and_spawned_ranks_are(tmp_path: Path, home: Path) -> None:
    """Also where the script is run anew in each of them, down to the line of the guard."""
    (tmp_path / "train.py").write_text(_WITHOUT_GUARD)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=120)
    with Store.open(home) as store:
        counts = store.rows("SELECT count(*) FROM steps GROUP BY run_id ORDER BY 1")
    assert counts in ([(4,)], [(1,), (4,)])


def test_a_users_packages_keep_their_names(tmp_path: Path, home: Path) -> None:
    """Many projects have an ``engine.py``: ours must not be imported in its place."""
    for name in ("engine", "collectors", "playbooks", "tui"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    (tmp_path / "train.py").write_text(
        "import opsuite, torch\n"
        "model = torch.nn.Linear(4, 4)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "watch = opsuite.watch(model, optimizer)\n"
        "import engine, collectors, playbooks, tui\n"
        "assert [m.MINE for m in (engine, collectors, playbooks, tui)]\n"
        "for _ in range(4):\n"
        "    model(torch.randn(2, 4)).sum().backward()\n"
        "    optimizer.step()\n"
        "print(watch.run_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Store.open(home) as store:
        (count,) = store.rows("SELECT count(*) FROM steps WHERE run_id = ?", [done.stdout.strip()])
    assert count == (4,)


def test_a_trainer_goes_on_where_nothing_can_be_recorded(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("a file in the way")
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())
    before = hooks()
    watch = opsuite.watch(model, optimizer)
    model(torch.randn(1, 4)).sum().backward()
    optimizer.step()
    watch.stop()
    assert watch.run_id is None
    assert hooks() == before
    assert "not watched" in capsys.readouterr().err


def test_a_compiled_model_keeps_its_graph(home: Path) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters())
    watch = opsuite.watch(compiled, optimizer)
    train(compiled, optimizer, 4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    watch.stop()
    with Store.open(home) as store:
        (count,) = store.rows(
            "SELECT count(*) FROM phases WHERE run_id = ? AND phase = 'forward'", [watch.run_id]
        )
    assert count == (4,)
    assert graphs == 1, "hooks made it compile again"
