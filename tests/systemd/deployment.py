"""kvnode on a machine, as an operator sees it: configuration files, units, and the SDK beside them.

Owns what tests of units share. Judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.systemd.lab.machine import Machine

QUICK = """
[Service]
WatchdogSec=2s
RestartSec=100ms
"""
"""For tests that wait for it; all else is as installed."""


class Deployment:
    """The nodes of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.addresses: dict[str, str] = {}
        """Of all nodes of the cluster, by name."""

    def configure(self, addresses: Mapping[str, str], here: tuple[str, ...] = (), quick: bool = True) -> None:
        """Write the configuration of nodes of a new cluster: of those that are `here`, by default all of them."""
        self.addresses = dict(addresses)
        for name in here or addresses:
            self.write_configuration(name)
        if quick:
            self.machine.add_drop_in("kvnode@.service", "quick", QUICK)

    def write_configuration(self, name: str, **changed: str) -> None:
        """Write a node's file; `changed` replaces lines of it, by the name of the setting."""
        members = "\n".join(f'{member} = "{address}"' for member, address in self.addresses.items())
        settings = {"listen": self.addresses[name], "data_dir": f"/var/lib/kvnode/{name}", "level": "info"} | changed
        text = f"""
[node]
name = "{name}"
listen = "{settings["listen"]}"
data_dir = "{settings["data_dir"]}"
[cluster]
id = "lab"
[cluster.members]
{members}
[log]
level = "{settings["level"]}"
"""
        self.machine.write(f"/etc/kvnode/{name}.toml", text, 0o640)
        self.machine.run("chgrp", "kvnode", f"/etc/kvnode/{name}.toml")

    def start(self, *names: str) -> None:
        """Start nodes, of all by default, and wait until each is ready."""
        self.machine.run("systemctl", "start", *(f"kvnode@{name}" for name in names or self.addresses))

    def stop(self, *names: str) -> None:
        """Stop nodes, by default all, and wait until each has ended."""
        self.machine.run("systemctl", "stop", *(f"kvnode@{name}" for name in names or self.addresses))

    def pid(self, name: str) -> int:
        """Of a node's process, in the machine; 0 while there is none."""
        return int(self.machine.show(f"kvnode@{name}", "MainPID")["MainPID"])

    def probe(self, name: str, source: str, *arguments: str) -> dict[str, object]:
        """What a program answers, as JSON, that runs in the place of a node: in all the unit says, but its own ExecStart=."""
        unit = f"kvnode@{name}.service"
        self.machine.write(f"/etc/kvnode/{name}.py", source)
        command = " ".join(("/opt/kvnode/bin/python", f"/etc/kvnode/{name}.py", *arguments))
        instead = f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart={command}\n"
        self.machine.add_drop_in(unit, "probe", instead)
        self.machine.run("systemctl", "start", unit)
        said = [entry.message for entry in self.machine.journal(unit) if entry.is_from_process]
        answer: dict[str, object] = json.loads(said[-1])
        return answer

    def print_journal(self, entries_max: int = 40) -> None:
        """The end of the journal, for the report of a failure."""
        command = ("journalctl", "--no-pager", "--no-hostname", "--unit=kvnode@*", f"--lines={entries_max}")
        print(self.machine.run(*command, check=False).stdout)
