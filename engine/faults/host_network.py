"""Hosts that are network namespaces of this machine, joined by a bridge.

Each has an interface ``eth0`` with an address of its own; the machine itself is on the bridge too,
at the gateway's address. Needs root. What a process that was killed left behind is swept by the
next that makes a network.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from collectors.clock import now_ns, process_lives_since
from collectors.errors import OpsuiteError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_NAMESPACES = Path("/run/netns")  # ip-netns(8)
_OURS = re.compile(r"opsuite-(\d+)-(\d+)-[0-9a-f]{8}(-\d+)?")
_MOST_HOSTS = 200
_INNER = "eth0"
_BURST_BYTES = 16 << 10
_QUEUE_MS = 400


class HostNetwork:
    """A context manager: inside it the network is there.

    Args:
        hosts: their names.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        if not 0 < len(hosts) <= _MOST_HOSTS or len(set(hosts)) != len(hosts):
            raise ValueError(f"1 to {_MOST_HOSTS} different hosts, not {hosts}")
        self.hosts = tuple(hosts)
        token = secrets.token_hex(4)
        self._name = f"opsuite-{os.getpid()}-{now_ns()}-{token}"
        self._bridge = f"ops{token}"
        self._limited: set[str] = set()
        self._made = ExitStack()
        self._subnet = ipaddress.IPv4Network("10.0.0.0/24")

    def __enter__(self) -> Self:
        """Make it.

        Raises:
            OpsuiteError: the machine refused; nothing is left.
        """
        with ExitStack() as made:
            sweep()
            self._subnet = _free_subnet()
            made.callback(_remove, self._bridge, [self._namespace(host) for host in self.hosts])
            self._make_bridge()
            for host in self.hosts:
                self._make_host(host)
            self._made = made.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._made.close()

    @property
    def gateway(self) -> str:
        """The address of the machine itself, which a process outside of the hosts listens on."""
        return str(self._subnet[1])

    def address(self, host: str) -> str:
        """Of a host's ``eth0``."""
        return str(self._subnet[10 + self._number(host)])

    def command_prefix(self, host: str) -> list[str]:
        """What goes before a command that is to run on a host.

        ``ip netns exec`` would mount another /sys, in which there are no control groups.
        """
        return ["nsenter", f"--net={_NAMESPACES / self._namespace(host)}", "--"]

    def cut(self, host: str) -> None:
        """Pull its cable; again does nothing."""
        _ip([f"link set dev {self._port(host)} down"])

    def restore(self, host: str) -> None:
        """Plug it in; again does nothing."""
        _ip([f"link set dev {self._port(host)} up"])

    def limit(self, host: str, kbit: int) -> None:
        """Have it send and receive at most so many thousand bits a second."""
        burst = max(_BURST_BYTES, kbit * 1000 // 8 // 100)  # 10 ms at the rate
        rule = f"root tbf rate {kbit}kbit burst {burst} latency {_QUEUE_MS}ms"
        self._limited.add(host)
        _tc([f"qdisc replace dev {self._port(host)} {rule}"])
        _tc([f"qdisc replace dev {_INNER} {rule}"], self._namespace(host))

    def unlimited(self, host: str) -> None:
        """Lift the limit; without one, nothing."""
        if host in self._limited:
            self._limited.discard(host)
            _tc([f"qdisc del dev {self._port(host)} root"])
            _tc([f"qdisc del dev {_INNER} root"], self._namespace(host))

    @staticmethod
    @functools.cache
    def why_unavailable() -> str:
        """Why there can be no such network here, or ""; found out by making one."""
        if sys.platform != "linux":
            return "only Linux has network namespaces"
        for tool in ("ip", "nsenter"):
            if shutil.which(tool) is None:
                return f"the command {tool} is not installed"
        try:
            with HostNetwork(["probe"]) as network:
                command = [*network.command_prefix("probe"), "ip", "link", "show", _INNER]
                subprocess.run(command, check=True, capture_output=True)
        except (OpsuiteError, OSError, subprocess.SubprocessError) as error:
            return f"no network of namespaces can be made: {error}"
        return ""

    @staticmethod
    @functools.cache
    def why_no_limits() -> str:
        """Why rates cannot be limited in it, or ""; found out by limiting one."""
        if reason := HostNetwork.why_unavailable():
            return reason
        if shutil.which("tc") is None:
            return "the command tc is not installed"
        try:
            with HostNetwork(["probe"]) as network:
                network.limit("probe", 1000)
        except (OpsuiteError, OSError) as error:
            return f"rates cannot be limited: {error}"
        return ""

    def _number(self, host: str) -> int:
        return self.hosts.index(host)

    def _namespace(self, host: str) -> str:
        return f"{self._name}-{self._number(host)}"

    def _port(self, host: str) -> str:
        """The bridge's end of the host's cable; a name of at most 15 letters."""
        return f"{self._bridge}p{self._number(host)}"

    def _make_bridge(self) -> None:
        # Its own hardware address: else it changes when a host joins, and neighbours forget it.
        hardware = ":".join(f"{byte:02x}" for byte in (2, *secrets.token_bytes(5)))
        _ip(
            [
                f"link add {self._bridge} address {hardware} type bridge",
                f"link set dev {self._bridge} alias {self._name}",
                f"addr add {self.gateway}/{self._subnet.prefixlen} dev {self._bridge}",
                f"link set dev {self._bridge} up",
            ]
        )

    def _make_host(self, host: str) -> None:
        namespace, port = self._namespace(host), self._port(host)
        _ip(
            [
                f"netns add {namespace}",
                f"link add {port} type veth peer name {_INNER} netns {namespace}",
                f"link set dev {port} master {self._bridge}",
                f"link set dev {port} up",
            ]
        )
        _ip(
            [
                "link set dev lo up",
                f"addr add {self.address(host)}/{self._subnet.prefixlen} dev {_INNER}",
                f"link set dev {_INNER} up",
            ],
            namespace,
        )


def sweep() -> list[str]:
    """Take away what processes that are no more have left; gives the names."""
    names = [path.name for path in _NAMESPACES.glob("opsuite-*")]
    bridges = {link.get("ifalias", ""): link["ifname"] for link in _bridges()}
    dead = [name for name in (*names, *bridges) if _is_left_over(name)]
    for name in dead:
        if name in bridges:
            _remove(bridges[name], [])
        else:
            _remove("", [name])
    return dead


def _is_left_over(name: str) -> bool:
    match = _OURS.fullmatch(name)
    return match is not None and not process_lives_since(int(match[1]), int(match[2]))


def _bridges() -> list[dict[str, str]]:
    output = _run(["ip", "-json", "link", "show", "type", "bridge"])
    return [link for link in json.loads(output or "[]") if link]


def _remove(bridge: str, namespaces: list[str]) -> None:
    """The cables go with the namespaces."""
    for name in namespaces:
        with suppress(OpsuiteError):  # it was not made, or is gone
            _ip([f"netns del {name}"])
    if bridge:
        with suppress(OpsuiteError):
            _ip([f"link del {bridge}"])


def _free_subnet() -> ipaddress.IPv4Network:
    """One in 10.0.0.0/8 that this machine has no way to yet."""
    routes = json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    taken = []
    for route in routes:
        with suppress(ValueError):  # "default"
            taken.append(ipaddress.IPv4Network(route.get("dst", ""), strict=False))
    chance = random.SystemRandom()
    for _ in range(100):
        subnet = ipaddress.IPv4Network(
            f"10.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}.0/24"
        )
        if not any(subnet.overlaps(each) for each in taken):
            return subnet
    raise OpsuiteError("no addresses are free in 10.0.0.0/8", remedy="see `ip route`")


def _ip(lines: list[str], namespace: str = "") -> None:
    _batch("ip", lines, namespace)


def _tc(lines: list[str], namespace: str = "") -> None:
    _batch("tc", lines, namespace)


def _batch(tool: str, lines: list[str], namespace: str) -> None:
    inside = ["-netns", namespace] if namespace else []
    _run([tool, *inside, "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise OpsuiteError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise OpsuiteError(
            f"the network cannot be changed: {done.stderr.strip()}",
            where=f"{' '.join(command)}: {given.strip()}",
            remedy="run as root, on a Linux that has network namespaces",
        )
    return done.stdout
