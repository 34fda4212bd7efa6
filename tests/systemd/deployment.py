"""kvnode on a machine, as an operator sees it: configuration files, units, and the SDK beside them.

Owns what tests of units share. Judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

import kvclient
from tests.systemd.lab.machine import Machine
from tests.systemd.lab.network import Network

Answer = TypeVar("Answer")

QUICK = """
[Service]
RestartSec=100ms
"""
"""For tests that wait for restarts; all else is as installed."""


class Deployment:
    """The nodes of one machine, which may be a whole cluster or a part of one."""

    def __init__(self, machine: Machine, addresses: Mapping[str, str], here: tuple[str, ...] = ()) -> None:
        """`addresses` has all nodes of the cluster; those that are `here`, by default all, get their configuration."""
        self.machine, self.addresses = machine, dict(addresses)
        self.names = here or tuple(addresses)
        """Of the nodes on this machine."""
        for name in self.names:
            self.write_configuration(name)
        machine.add_drop_in("kvnode@.service", "quick", QUICK)

    # ---- configuration -----------------------------------------------------------------------------------------------

    def write_configuration(self, name: str, settings: Mapping[str, str] = {}, alone_at: str = "") -> None:
        """Write a node's file. `settings`: further ones, "section.field" -> TOML; `alone_at`: it is a cluster of its own."""
        members = {name: alone_at} if alone_at else self.addresses
        all_settings = {
            "node.name": f'"{name}"',
            "node.listen": f'"{members[name]}"',
            "node.data_dir": f'"/var/lib/kvnode/{name}"',
            "cluster.id": '"lab"',
            "cluster.replication_factor": str(len(members)),
            **{f"cluster.members.{member}": f'"{address}"' for member, address in members.items()},
            **settings,
        }
        self.machine.write(
            f"/etc/kvnode/{name}.toml", "".join(f"{key} = {value}\n" for key, value in all_settings.items()), 0o640
        )
        self.machine.run("chgrp", "kvnode", f"/etc/kvnode/{name}.toml")

    # ---- the life of nodes -------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start nodes, all of this machine by default, and wait until each is ready."""
        self.machine.run("systemctl", "start", *self._units(names))

    def stop(self, *names: str) -> None:
        """Stop nodes, all of this machine by default, and wait until each has ended."""
        self.machine.run("systemctl", "stop", *self._units(names))

    def start_all(self) -> None:
        """All nodes of this machine run and lead all shards of the cluster between them, whatever was before."""
        self.machine.run("systemctl", "reset-failed", *self._units(()), check=False)  # (Units that never ran are not loaded.)
        self.start()
        self.machine.until(lambda: sum(self.leads(name) for name in self.names) == 8, "a leader of each shard")

    def _units(self, names: tuple[str, ...]) -> list[str]:
        return [f"kvnode@{name}" for name in names or self.names]

    # ---- what systemd says of a node ---------------------------------------------------------------------------------

    def property(self, name: str, key: str) -> str:
        """A property of a node's unit."""
        return self.machine.show(f"kvnode@{name}", key)[key]

    def pid(self, name: str) -> int:
        """Of a node's process, in the machine; 0 while there is none."""
        return int(self.property(name, "MainPID"))

    def leads(self, name: str) -> int:
        """How many shards a node leads, as its status line says."""
        found = re.match(r"ACTIVE: leads (\d+) of ", self.property(name, "StatusText"))
        return int(found[1]) if found else 0

    def await_restart(self, name: str, before: int) -> None:
        """Wait until a node has been restarted more often than `before`, and is ready."""

        def again() -> bool:
            found = self.machine.show(f"kvnode@{name}", "NRestarts", "ActiveState")
            return int(found["NRestarts"]) > before and found["ActiveState"] == "active"

        self.machine.until(again, f"the restart of {name}")

    def restarts(self, name: str) -> int:
        """How often systemd has restarted a node by itself since it was started."""
        return int(self.property(name, "NRestarts"))

    # ---- from inside -------------------------------------------------------------------------------------------------

    def with_client(self, work: Callable[[kvclient.AsyncClient], Awaitable[Answer]], timeout_s: float = 10.0) -> Answer:
        """What `work` answers, given a client that is on this machine."""

        async def connected() -> Answer:
            async with kvclient.connect(f"kv://{','.join(self.addresses.values())}?timeout={timeout_s}") as client:
                return await work(client)

        return self.machine.call(lambda: asyncio.run(connected()))

    def in_place_of(self, name: str, *command: str) -> dict[str, object]:
        """What a command says, as JSON, that runs in the place of a node: in all its unit says, but for the program."""
        unit = f"kvnode@{name}.service"
        instead = f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart={' '.join(command)}\n"
        self.machine.add_drop_in(unit, "instead", instead)
        since = self.machine.mark()
        self.machine.run("systemctl", "start", unit)
        self.machine.remove_drop_in(unit, "instead")
        said = "\n".join(entry.message for entry in self.machine.journal(unit, since=since) if entry.is_from_process)
        answer: dict[str, object] = json.loads(said)
        return answer


class Hosts(NamedTuple):
    """A network, and the machine of each node, by the node's name."""

    network: Network
    machines: dict[str, Machine]


def print_journal(machine: Machine, entries_max: int = 40) -> None:
    """The end of a machine's journal, for the report of a failure."""
    command = ("journalctl", "--unit=kvnode@*", f"--lines={entries_max}")
    print(machine.run(*command, check=False).stdout)
