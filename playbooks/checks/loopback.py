"""Loopback: TCP within the host, and copies between the host and every GPU.

TCP over 127.0.0.1 measures the kernel's network stack and the cores under it; it does not reach the
network card (the pair test does). The copies go over PCIe or NVLink-C2C from page-locked memory: a
link that came up at half its width shows here.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.processors import gpu_count

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

NAME = "loopback"
_BLOCK = bytes(range(256)) * 4096  # 1 MiB
_COMPARE_EVERY = 16
_TIMEOUT_S = 10.0
_COPY_BYTES = 256 << 20


def _unchanged(block: bytes) -> bytes:
    return block


@dataclass(frozen=True, kw_only=True)
class Loopback:
    """The check.

    Attributes:
        wire: what happens to a block on its way; tests give one that spoils it.
    """

    wire: Callable[[bytes], bytes] = _unchanged
    name: str = NAME

    def measure(self, seconds: float) -> list[Measurement]:
        """TCP first, then the GPUs one after the other, both ways."""
        gpus = gpu_count()
        share = seconds / (1 + 2 * gpus)
        measured = [self._measure_tcp(share)]
        for gpu in range(gpus):
            measured += [
                _measure_copy(gpu, to_gpu=to_gpu, seconds=share) for to_gpu in (True, False)
            ]
        return measured

    def _measure_tcp(self, seconds: float) -> Measurement:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_TIMEOUT_S)
            sender = threading.Thread(
                target=_send, args=(server.getsockname(), self.wire(_BLOCK), seconds), daemon=True
            )
            sender.start()
            connection, _ = server.accept()
            with connection:
                connection.settimeout(_TIMEOUT_S)
                rate, wrong = _receive(connection)
            sender.join(_TIMEOUT_S)
        return Measurement(
            check=NAME,
            subject="tcp 127.0.0.1",
            metric="tcp",
            value=rate / 1e9,
            unit="GB/s",
            fault=Verdict.CORRUPT if wrong else None,
            detail=f"{wrong} blocks arrived changed" if wrong else "",
        )


def _send(address: tuple[str, int], block: bytes, seconds: float) -> None:
    with socket.create_connection(address, timeout=_TIMEOUT_S) as connection:
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            connection.sendall(block)


def _receive(connection: socket.socket) -> tuple[float, int]:
    """Bytes a second until the sender ends, and how many of the compared blocks were wrong."""
    block = bytearray(len(_BLOCK))
    blocks = wrong = 0
    begun = time.perf_counter()
    while _fill(connection, block):
        if blocks % _COMPARE_EVERY == 0:
            wrong += block != _BLOCK
        blocks += 1
    return blocks * len(_BLOCK) / (time.perf_counter() - begun), wrong


def _fill(connection: socket.socket, block: bytearray) -> bool:
    view = memoryview(block)
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def _measure_copy(gpu: int, *, to_gpu: bool, seconds: float) -> Measurement:
    import torch

    expected = torch.arange(_COPY_BYTES // 4, dtype=torch.int32)
    host = expected.pin_memory() if to_gpu else torch.zeros_like(expected).pin_memory()
    device = (torch.zeros_like(expected) if to_gpu else expected).to(f"cuda:{gpu}")
    source, target = (host, device) if to_gpu else (device, host)
    rate = _copy_rate(source, target, gpu, seconds)
    wrong = int((target.cpu() != expected).sum())
    way = "host to cuda" if to_gpu else "cuda to host"
    return Measurement(
        check=NAME,
        subject=f"{way}:{gpu}" if to_gpu else f"cuda:{gpu} to host",
        metric=way,
        value=rate / 1e9,
        unit="GB/s",
        fault=Verdict.CORRUPT if wrong else None,
        detail=f"{wrong} elements are wrong" if wrong else "",
    )


def _copy_rate(source: torch.Tensor, target: torch.Tensor, gpu: int, seconds: float) -> float:
    import torch

    torch.cuda.synchronize(gpu)
    times, begun = 0, time.perf_counter()
    while not times or time.perf_counter() - begun < seconds:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(gpu)
        times += 1
    return times * _COPY_BYTES / (time.perf_counter() - begun)
