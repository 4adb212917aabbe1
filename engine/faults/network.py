"""The network between hosts, cut or slow."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.host_fault import HostFault
from engine.faults.host_network import HostNetwork
from engine.faults.keys import between, key
from engine.faults.outside import PassingFault

if TYPE_CHECKING:
    from engine.faults.scene import Scene

_NEEDS = "root, and network namespaces that the hosts are in"


@dataclass(frozen=True, kw_only=True)
class _NetworkFault(HostFault, PassingFault, ABC):
    def unavailable(self, scene: Scene) -> str:
        network = scene.network()
        if network is None:
            return HostNetwork.why_unavailable() or "the hosts are not in networks of their own"
        if (host := self.struck_host(scene)) not in network.hosts:
            return f"there is no host {host}: there are {', '.join(network.hosts)}"
        return ""


@dataclass(frozen=True, kw_only=True)
class NetworkCut(_NetworkFault):
    """One host's link is down for some time: packets vanish, and connections stay open."""

    name: ClassVar[str] = "network-cut"
    needs: ClassVar[str] = _NEEDS

    def strike(self, scene: Scene) -> None:
        network, host = _network(scene), self.struck_host(scene)
        self.undone.callback(network.restore, host)
        network.cut(host)


@dataclass(frozen=True, kw_only=True)
class NetworkRate(_NetworkFault):
    """One host sends and receives slowly for some time (a token bucket, each way)."""

    name: ClassVar[str] = "network-rate"
    needs: ClassVar[str] = f"{_NEEDS}; the kernel's queueing discipline tbf"

    kbit: int = key("thousands of bits in a second", between(8, 100_000_000))

    def unavailable(self, scene: Scene) -> str:
        return super().unavailable(scene) or HostNetwork.why_no_limits()

    def strike(self, scene: Scene) -> None:
        network, host = _network(scene), self.struck_host(scene)
        self.undone.callback(network.unlimited, host)
        network.limit(host, self.kbit)


def _network(scene: Scene) -> HostNetwork:
    network = scene.network()
    assert network is not None
    return network
