"""A private network of machines: a bridge in a network namespace of its own, and a cable to each machine.

Owns the bridge, the cables and the addresses. The host's network never sees any of it. It ends with `close`, or with the
process that made it; cables end with either of their ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TypeVar

from tests.systemd.lab import namespaces
from tests.systemd.lab.machine import Machine

Answer = TypeVar("Answer")

PREFIX = "10.0.0"
"""As in the examples that are installed."""
OWN_ADDRESS = f"{PREFIX}.254"
"""Of who calls from the network itself."""
NEIGHBOURS = {"base_reachable_time_ms": 500, "delay_first_probe_time": 0, "retrans_time_ms": 100}
"""Who takes over another machine's address is found within a second; with the kernel's settings it may take a minute."""


class Network:
    """10.0.0.0/24. A context manager."""

    def __init__(self) -> None:
        self._process = namespaces.spawn(("--net",), ["sh", "-c", "echo; exec sleep infinity"], subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # The namespace is there.
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        self._ip("address", "add", f"{OWN_ADDRESS}/24", "dev", "bridge")
        self._ip("link", "set", "bridge", "up")
        _forget_quickly(self.pid, "bridge")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def attach(self, machine: Machine, number: int) -> str:
        """Give a machine its cable and the address 10.0.0.`number`, which is returned."""
        address, cable = f"{PREFIX}.{number}", f"machine{number}"
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self._ip("link", "set", cable, "master", "bridge", "up")
        _ip(machine.pid, "address", "add", f"{address}/24", "dev", "eth0")
        _ip(machine.pid, "link", "set", "eth0", "up")
        _forget_quickly(machine.pid, "eth0")
        return address

    def call(self, work: Callable[[], Answer]) -> Answer:
        """What a function of this process answers in this network, which reaches all machines."""
        return namespaces.call_in_network(self.pid, work)

    @property
    def pid(self) -> int:
        """Of a process in this network, which reaches all machines."""
        return self._process.pid

    def add_address(self, address: str) -> None:
        """Another address, as "192.0.2.254/24", of who calls from the network itself."""
        self._ip("address", "add", address, "dev", "bridge")

    def set_cable(self, number: int, plugged: bool) -> None:
        """Pull a machine's cable, or plug it in again."""
        self._ip("link", "set", f"machine{number}", "up" if plugged else "down")

    def close(self) -> None:
        """End it. Idempotent."""
        self._process.kill()
        self._process.communicate()

    def _ip(self, *arguments: str) -> None:
        _ip(self._process.pid, *arguments)


def _ip(pid: int, *arguments: str) -> None:
    namespaces.run(["nsenter", "--target", str(pid), "--net", "ip", *arguments])


def _forget_quickly(pid: int, device: str) -> None:
    settings = [f"echo {value} > /proc/sys/net/ipv4/neigh/{device}/{name}" for name, value in NEIGHBOURS.items()]
    namespaces.run(["nsenter", "--target", str(pid), "--net", "sh", "-ec", "; ".join(settings)])
