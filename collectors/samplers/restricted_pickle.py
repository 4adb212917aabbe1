"""Reads pickles of plain values (builtin containers and scalars) and runs nothing.

A pickle is a program for a small machine, and Python's own can import and call anything. The
machine here has no instruction that could: it knows those that build plain values, and refuses a
file at the first other one. It shares nothing with :mod:`pickle`, whose hooks and whose table of
extensions it therefore cannot meet.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, NoReturn

from collectors.errors import DataError, StorageError
from collectors.samplers.pickle_machine import Damaged, PickleMachine, check_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST_BYTES = 256 << 20
# Up to a microsecond each. Torch needs 70 for an operation, and one more for each of its frames.
_MOST_INSTRUCTIONS = 2_000_000
_LONGEST_INTEGER = 1024  # bytes
_LONGEST_NAME = 200
_BOOLEANS = {b"00": False, b"01": True}  # before protocol 2
_PLAIN = "a flight-recorder dump has only plain values; nothing was run"


def read_plain_pickle(path: Path, *, most_bytes: int = MOST_BYTES) -> object:
    """The value in a file.

    Raises:
        DataError: it is too large, no regular file, damaged, or holds more than plain values.
        StorageError: it cannot be read.
    """
    return plain_value(read_bounded(path, most_bytes=most_bytes), where=str(path))


def read_bounded(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file, whatever lies there; errors as :func:`read_plain_pickle`."""
    try:
        # A pipe that somebody put there must not keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DataError("not a regular file", where=str(path))
            data = file.read(most_bytes + 1) if found.st_size <= most_bytes else None
    except OSError as error:
        raise StorageError.from_os_error(error, f"reading {path}") from error
    if data is None or len(data) > most_bytes:
        raise DataError(f"larger than {most_bytes >> 20} MiB", where=str(path))
    return data


def plain_value(data: bytes, *, where: str = "") -> object:
    """The value that ``data`` pickles.

    Raises:
        DataError: as :func:`read_plain_pickle`.
    """
    machine = PickleMachine(data)
    try:
        for _ in range(_MOST_INSTRUCTIONS):
            code = machine.byte()
            if code == _STOP:
                return machine.result()
            operation = _OPERATIONS.get(code)
            if operation is None:
                _refuse(machine, code, where)
            operation(machine)
        raise Damaged(f"it has more than {_MOST_INSTRUCTIONS} instructions")
    except Damaged as error:
        raise DataError(f"a damaged pickle: {error}", where=where) from None
    except (IndexError, KeyError, ValueError, struct.error):
        raise DataError("a damaged pickle, or one that was cut off", where=where) from None


def _refuse(machine: PickleMachine, code: int, where: str) -> NoReturn:
    if code in _IMPORTS:
        names = (machine.line().decode("utf-8", "replace") for _ in range(2))
        holds = f"a reference to code ({_named(*names)})"
    elif code == _STACK_GLOBAL:
        holds = f"a reference to code ({_named(*machine.two_topmost())})"
    elif code in _REFUSED:
        holds = _REFUSED[code]
    else:
        raise Damaged(f"0x{code:02x} is no instruction that builds plain values")
    raise DataError(f"it holds {holds}: {_PLAIN}", where=where)


def _named(module: object, name: object) -> str:
    parts = [part[:_LONGEST_NAME] if isinstance(part, str) else "?" for part in (module, name)]
    told = ".".join(parts)
    return "".join(letter if letter.isprintable() else "?" for letter in told)


def _unsigned(machine: PickleMachine, size: int) -> int:
    return int.from_bytes(machine.take(size), "little")


def _text(machine: PickleMachine, size: int) -> None:
    encoded = machine.take(_unsigned(machine, size))
    plain = encoded.isascii()  # the codec with an error handler takes five times as long
    machine.push(str(encoded, "ascii") if plain else str(encoded, "utf-8", "surrogatepass"))


def _escaped_text(machine: PickleMachine) -> None:
    line = machine.line()
    machine.push(str(line, "raw-unicode-escape" if b"\\" in line else "latin-1"))


def _bytes(machine: PickleMachine, size: int) -> None:
    machine.push(machine.take(_unsigned(machine, size)))


def _byte_array(machine: PickleMachine) -> None:
    machine.push(bytearray(machine.take(_unsigned(machine, 8))))


def _long(machine: PickleMachine, size: int) -> None:
    count = _unsigned(machine, size)
    if count > _LONGEST_INTEGER:
        raise Damaged("it has too large a number")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _decimal(machine: PickleMachine) -> None:
    line = machine.line()
    machine.push(_BOOLEANS[line] if line in _BOOLEANS else _number(line))


def _number(line: bytes) -> int:
    if len(line) > _LONGEST_INTEGER:
        raise Damaged("it has too large a number")
    return int(line)


def _tuple(machine: PickleMachine, count: int) -> None:
    values = [machine.pop() for _ in range(count)][::-1]
    machine.push_container(tuple(values), values)


def _marked_tuple(machine: PickleMachine) -> None:
    values = machine.pop_marked()
    machine.push_container(tuple(values), values)


def _marked_list(machine: PickleMachine) -> None:
    values = machine.pop_marked()
    machine.push_container([])
    machine.extend(values)


def _marked_dict(machine: PickleMachine) -> None:
    values = machine.pop_marked()
    machine.push_container({})
    machine.assign(values)


def _frozen_set(machine: PickleMachine) -> None:
    values = machine.pop_marked()
    check_keys(values)
    machine.push_container(frozenset(values))


def _set_item(machine: PickleMachine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.assign([key, value])


def _protocol(machine: PickleMachine) -> None:
    if machine.byte() > 5:
        raise Damaged("it is of a newer protocol than 5")


def _frame(machine: PickleMachine) -> None:
    machine.take(8)  # how long the frame is: nothing is read ahead here


_STOP = ord(".")
_IMPORTS = (ord("c"), ord("i"))  # GLOBAL, INST
_STACK_GLOBAL = 0x93
_REFUSED = {
    ord("o"): "an object to be made (OBJ)",
    ord("R"): "a call (REDUCE)",
    ord("b"): "an object to be filled (BUILD)",
    0x81: "an object to be made (NEWOBJ)",
    0x92: "an object to be made (NEWOBJ_EX)",
    0x82: "a registered extension (EXT1)",
    0x83: "a registered extension (EXT2)",
    0x84: "a registered extension (EXT4)",
    ord("P"): "a reference to an object elsewhere (PERSID)",
    ord("Q"): "a reference to an object elsewhere (BINPERSID)",
    0x97: "a buffer from elsewhere (NEXT_BUFFER)",
    0x98: "a buffer from elsewhere (READONLY_BUFFER)",
}
_OPERATIONS: dict[int, Callable[[PickleMachine], None]] = {
    ord("("): PickleMachine.mark,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(value=True),
    0x89: lambda m: m.push(value=False),
    ord("I"): _decimal,
    ord("L"): lambda m: m.push(_number(m.line().removesuffix(b"L"))),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.push(m.byte()),
    ord("M"): lambda m: m.push(_unsigned(m, 2)),
    0x8A: lambda m: _long(m, 1),
    0x8B: lambda m: _long(m, 4),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("V"): _escaped_text,
    ord("X"): lambda m: _text(m, 4),
    0x8C: lambda m: _text(m, 1),
    0x8D: lambda m: _text(m, 8),
    ord("B"): lambda m: _bytes(m, 4),
    ord("C"): lambda m: _bytes(m, 1),
    0x8E: lambda m: _bytes(m, 8),
    0x96: _byte_array,
    ord("]"): lambda m: m.push_container([]),
    ord("l"): _marked_list,
    ord("a"): lambda m: m.extend([m.pop()]),
    ord("e"): lambda m: m.extend(m.pop_marked()),
    ord(")"): lambda m: m.push_container(()),
    ord("t"): _marked_tuple,
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    ord("}"): lambda m: m.push_container({}),
    ord("d"): _marked_dict,
    ord("s"): _set_item,
    ord("u"): lambda m: m.assign(m.pop_marked()),
    0x8F: lambda m: m.push_container(set()),
    0x90: lambda m: m.add(m.pop_marked()),
    0x91: _frozen_set,
    ord("p"): lambda m: m.put(_number(m.line())),
    ord("q"): lambda m: m.put(m.byte()),
    ord("r"): lambda m: m.put(_unsigned(m, 4)),
    0x94: PickleMachine.put_next,
    ord("g"): lambda m: m.get(_number(m.line())),
    ord("h"): lambda m: m.get(m.byte()),
    ord("j"): lambda m: m.get(_unsigned(m, 4)),
    0x80: _protocol,
    0x95: _frame,
}
