"""Pickles of plain values are read as pickle reads them; nothing of a hostile one is ever run."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import random
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import DataError, OpsuiteError
from collectors.samplers.restricted_pickle import plain_value, read_plain_pickle

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = st.text() | st.integers(-(1 << 50), 1 << 50) | st.booleans() | st.none()
_SCALARS = _KEYS | st.integers() | st.floats(allow_nan=False)
_LATER_SCALARS = _SCALARS | st.binary()


def _values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner) | st.lists(inner).map(tuple),
        max_leaves=20,
    )


@given(_values(_SCALARS), st.integers(0, 5))
def test_plain_values_of_every_protocol_are_read_as_pickle_reads_them(
    value: Any, protocol: int
) -> None:
    assert plain_value(pickle.dumps(value, protocol)) == value


@given(_values(_LATER_SCALARS), st.sampled_from((4, 5)))
def test_bytes_sets_and_shared_values_too(value: Any, protocol: int) -> None:
    held = [value, value, {"set": {1, "a"}, "frozen": frozenset({2})}]
    assert plain_value(pickle.dumps(held, protocol)) == held
    assert plain_value(pickle.dumps(bytearray(b"x"), 5)) == bytearray(b"x")


class _Runs:
    """Pickles as a call that writes the canary."""

    def __init__(self, canary: Path, how: str) -> None:
        self.canary, self.how = canary, how

    def __reduce_ex__(self, protocol: Any) -> Any:
        command = f"touch {self.canary}"
        if self.how == "build":
            return (dict, (), {"x": os.system}, None, None)
        return (os.system, (command,))


def _hostile(canary: Path) -> dict[str, bytes]:
    touch = f"touch {canary}".encode()
    text = b"X" + struct.pack("<I", len(touch)) + touch
    system = b"\x8c\x05posix\x8c\x06system\x93"
    found = {
        f"reduce, protocol {protocol}": pickle.dumps({"entries": [_Runs(canary, "call")]}, protocol)
        for protocol in range(6)
    }
    return found | {
        "build": pickle.dumps([_Runs(canary, "build")]),
        "global and reduce": b"cposix\nsystem\n" + text + b"\x85R.",
        "inst": b"(" + text + b"iposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + text + b"o.",
        "stack global": b"\x80\x04" + system + text + b"\x85R.",
        "newobj": b"\x80\x04" + system + text + b"\x85\x81.",
        "newobj with keywords": b"\x80\x04" + system + text + b"\x85}\x92.",
        "reduce of a value": b"]" + text + b"\x85R.",
        "build of a value": b"}}b.",
        "extension": b"\x80\x02\x82\xf0" + text + b"\x85R.",
        "extension, 2 bytes": b"\x80\x02\x83\xf0\x00" + text + b"\x85R.",
        "extension, 4 bytes": b"\x80\x02\x84\xf0\x00\x00\x00" + text + b"\x85R.",
        "persistent id": b"P" + touch + b"\n.",
        "persistent id from the stack": text + b"Q.",
        "buffer": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05N\x98.",
    }


def test_nothing_of_a_hostile_pickle_is_run(tmp_path: Path) -> None:
    """Also where a registered extension is in pickle's own cache, which asks no find_class."""
    canary = tmp_path / "canary"
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system  # it is in the cache now
        for name, data in _hostile(canary).items():
            with pytest.raises(DataError, match=r"it holds .*nothing was run"):
                plain_value(data)
            assert not canary.exists(), name
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)
        copyreg.clear_extension_cache()
    pickle.loads(_hostile(canary)["global and reduce"])
    assert canary.exists(), "the canary would have been written"


def test_the_refusal_names_the_code_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "_dump_3"
    path.write_bytes(_hostile(tmp_path / "canary")["stack global"])
    with pytest.raises(DataError) as refused:
        read_plain_pickle(path)
    assert "a reference to code (posix.system): a flight-recorder dump has only plain" in str(
        refused.value
    )
    assert str(path) in str(refused.value)


def test_cut_and_flipped_bytes_give_a_value_or_a_data_error(
    tmp_path: Path, small_dump: bytes
) -> None:
    canary = tmp_path / "canary"
    hostile = list(_hostile(canary).values())
    for cut in range(len(small_dump)):
        with pytest.raises(DataError):
            plain_value(small_dump[:cut])
    chance = random.Random(7)
    for _ in range(3000):
        data = bytearray(chance.choice([small_dump, *hostile]))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        _value_or_data_error(bytes(data))
    for _ in range(3000):
        _value_or_data_error(chance.randbytes(chance.randrange(60)) + b".")
    assert not canary.exists()


def _value_or_data_error(data: bytes) -> None:
    try:
        plain_value(data)
    except DataError:
        return


def _deep(count: int) -> bytes:
    return b")" + b"\x85" * count + b"."


BOMBS = {
    "claims a terabyte of bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "claims a terabyte of text": b"\x80\x05\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "claims a long number": b"\x80\x02\x8b" + struct.pack("<I", 1 << 31) + b"x.",
    "a long number": b"I" + b"9" * 900_000 + b"\n.",
    "a distant place to remember": b"Nr\xff\xff\xff\xff.",
    "nested too deep": _deep(100_000),
    "a list in itself": b"]q\x00h\x00a.",
    "a list that grows in another": b"]q\x00]h\x00aq\x01h\x00h\x01a.",
    "many lists": b"(" + b"]" * 20_000 + b"t.",
    "many values": b"(" + b"N" * 200_000 + b"t.",
    "many places to remember": b"N" + b"\x94" * 200_000 + b".",
    "keys that share a hash": b"}(" + b"".join(
        b"\x8a\x0a" + (k * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for k in range(2, 5000)
    ) + b"u.",
    "a list as a key": b"}(]Nu.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_exhaust_a_reader_is_refused_soon(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The real bounds on counts are many times as high, which takes a second to reach."""
    monkeypatch.setattr("collectors.samplers.restricted_pickle._MOST_INSTRUCTIONS", 160_000)
    monkeypatch.setattr("collectors.samplers.pickle_machine._MOST_CONTAINERS", 16_000)
    began = time.process_time()
    if name == "a distant place to remember":
        assert plain_value(BOMBS[name]) is None
    else:
        with pytest.raises(DataError, match="damaged pickle"):
            plain_value(BOMBS[name])
    assert time.process_time() - began < 5


TEN_MB = 10_000_000
LARGE = {
    "lists in lists": b"]" + b"]a" * (TEN_MB // 2) + b".",
    "pairs into a dict": b"}" + b"K\x01Ns" * (TEN_MB // 4) + b".",
    "texts": b"(" + b"\x8c\x00" * (TEN_MB // 2) + b"t.",
    "what does nothing": b"\x80\x02" * (TEN_MB // 2) + b"N.",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_pickle_is_given_up_after_a_second_or_two(name: str) -> None:
    began = time.process_time()
    with pytest.raises(DataError, match=r"more than|too many"):
        plain_value(LARGE[name])
    assert time.process_time() - began < 5


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "_dump_0"
    with pytest.raises(OpsuiteError, match="No such file"):
        read_plain_pickle(path)
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_plain_pickle(path)
    path.unlink()
    path.write_bytes(b"x" * 11)
    with pytest.raises(DataError, match="larger than"):
        read_plain_pickle(path, most_bytes=10)


@pytest.fixture(scope="module")
def small_dump() -> bytes:
    """As PyTorch writes one, protocol 2."""
    frame = {"name": "main", "filename": "/home/a/train.py", "line": 41}
    entry = {
        "record_id": 0,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": 1,
        "profiling_name": "gloo:all_reduce",
        "input_sizes": [[4, 3]],
        "time_created_ns": 1795466745492325842,
        "time_discovered_started_ns": None,
        "duration_ms": 0.25,
        "retired": True,
        "frames": [frame, frame],
    }
    buffer = io.BytesIO()
    pickle.dump({"version": "2.10", "entries": [entry, entry | {"record_id": 1}]}, buffer, 2)
    return buffer.getvalue()
