"""A board is read whatever its process does, and a foreign file is never taken for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.board import SIZE, Activity, Board, own_facts
from collectors.board_reader import BoardReader, open_boards
from collectors.errors import DataError, StorageError
from collectors.membership import group_name, members_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path, own_facts("rank3-1", 3, 8, flight_file="/f"))


def test_what_is_written_is_read(board: Board) -> None:
    reader = BoardReader(board.path)
    assert (reader.facts.rank, reader.facts.pid, reader.facts.flight_file) == (3, os.getpid(), "/f")
    first = reader.read()
    assert (first.step, first.steps_done, first.collective, first.left) == (-1, 0, None, None)
    board.step(7, 6)
    board.activity(Activity.BACKWARD)
    board.enter(
        "all_reduce",
        group="dp[0-7]",
        group_size=8,
        sequence=41,
        size_bytes=1 << 40,
        where="zug-ö.py:12",
        unusual=True,
    )
    state = reader.read()
    assert (state.step, state.steps_done, state.activity) == (7, 6, Activity.BACKWARD)
    assert state.ticks == first.ticks + 3
    assert state.collective is not None
    assert state.collective.where == "zug-ö.py:12"
    assert (state.collective.sequence, state.collective.size_bytes) == (41, 1 << 40)
    assert state.collective.unusual
    board.leave()
    board.end(well=False, last_words="ä" * 5000)
    state = reader.read()
    assert (state.collective, state.left) == (None, False)
    assert 900 < len(state.last_words) <= 1024


def test_a_dump_is_asked_for_and_answered(board: Board) -> None:
    reader = BoardReader(board.path)
    number = reader.ask()
    assert (board.asked, reader.read().answered) == (number, 0)
    board.answer(number)
    assert reader.read().answered == number


def test_a_forked_child_writes_nothing(board: Board) -> None:
    reader = BoardReader(board.path)
    child = os.fork()
    if child == 0:
        board.detach()
        board.step(99, 99)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.read().step == -1


@pytest.fixture
def spinning(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], BoardReader]]:
    """A process that enters and leaves collectives as fast as it can."""
    program = """
import sys
from pathlib import Path
from collectors.board import Board, own_facts
board = Board(Path(sys.argv[1]), own_facts("p", 0, 1))
number = 0
while True:
    number += 1
    text = f"op{number % 10}"
    board.enter(text, group=text, group_size=number, sequence=number, size_bytes=number,
                where=text)
    sum(range(2000))
"""
    with subprocess.Popen([sys.executable, "-P", "-c", program, str(tmp_path)]) as process:
        try:
            deadline = time.monotonic() + 20
            while not (readers := open_boards(tmp_path)) or readers[0].read().ticks < 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process, readers[0]
        finally:
            process.kill()


def test_a_collective_is_read_whole_while_it_changes(
    spinning: tuple[subprocess.Popen[bytes], BoardReader],
) -> None:
    process, reader = spinning
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    while len(seen) < 200 and time.monotonic() < deadline:
        found = reader.read().collective
        if found is None:  # torn: never told
            continue
        assert found.name == found.group == found.where == f"op{found.sequence % 10}"
        assert found.size_bytes == found.group_size == found.sequence
        seen.add(found.sequence)
    assert len(seen) == 200
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert reader.read().ticks == reader.read().ticks > 0


def test_no_space_is_an_error_at_the_beginning(tmp_path: Path) -> None:
    taken = tmp_path / "boards"
    taken.write_text("a file in the way")
    with pytest.raises(StorageError):
        Board(taken, own_facts("p", 0, 1))


def test_foreign_files_are_left_out(board: Board, tmp_path: Path) -> None:
    good = board.path.read_bytes()
    (tmp_path / "empty.board").touch()
    (tmp_path / "zeros.board").write_bytes(bytes(SIZE))
    (tmp_path / "newer.board").write_bytes(good[:8] + b"\x63" + good[9:])
    (tmp_path / "nonsense.board").write_bytes(good[:16] + b"[" * 40 + good[56:])
    os.mkfifo(tmp_path / "pipe.board")
    (tmp_path / "link.board").symlink_to(board.path)
    assert [reader.facts.process for reader in open_boards(tmp_path)] == ["rank3-1"]
    with pytest.raises(DataError):
        BoardReader(tmp_path / "zeros.board")


@given(st.integers(0, SIZE - 1), st.integers(0, 255))
def test_a_flipped_byte_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    directory = tmp_path_factory.mktemp("boards")
    path = Board(directory, own_facts("p", 0, 1)).path
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    for reader in open_boards(directory):
        reader.read()
        reader.close()


@given(st.sets(st.integers(0, 5000), min_size=1))
def test_members_are_read_back_from_a_groups_name(ranks: set[int]) -> None:
    assert members_of(group_name("dp", ranks)) == tuple(sorted(ranks))


def test_names_that_say_nothing() -> None:
    assert group_name("tp", range(4096)) == "tp[0-4095]"
    for name in ("tp", "tp[]", "tp[0,1", "tp[0-", "tp[1-]", "tp[x]", "tp[0-99999999999]"):
        assert members_of(name) is None, name
