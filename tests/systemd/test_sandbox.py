"""What a node cannot do, tried from the very place where it runs: the same unit, with a probe as its program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.systemd.deployment import Deployment

PROBE = Path(__file__).with_name("probe.py")
ADDRESSES = ("10.1.2.3", "172.16.2.3", "192.168.2.3", "fd00::3", "192.0.2.3", "2001:db8::3", "169.254.169.254")
"""All of them are this machine's own, so that only the unit decides which ones answer."""

NEEDED = {
    "write its state": "ok",
    "write /tmp": "ok",
    "write /var/tmp": "ok",
    "read its configuration": "ok",
    "read /proc/stat": "ok",
    "listen on its port": "ok",
    "connect to this host": "ECONNREFUSED",
    "connect to this host by IPv6": "ECONNREFUSED",
    "connect to 10/8": "ECONNREFUSED",
    "connect to 172.16/12": "ECONNREFUSED",
    "connect to 192.168/16": "ECONNREFUSED",
    "connect to fc00::/7": "ECONNREFUSED",
}
REFUSED_BY_THE_UNIT = {
    "read other's state": "ENOENT",
    "read others' temporary files": "ENOENT",
    "read a device": "ENOENT",
    "read homes": "EACCES",
    "execute from its state": "EACCES",
    "execute from /tmp": "EACCES",
    "execute from /dev/shm": "EACCES",
    "execute a shell": "EACCES",
    "map code from its state": "EPERM",
    "map memory for writing and executing": "EPERM",
    "make a namespace": "EPERM",
    "use io_uring": "EPERM",
    "change an owner": "EPERM",
    "make a set-user-id file": "EPERM",
    "change its priority": "EPERM",
    "talk to the kernel by netlink": "EAFNOSUPPORT",
    "connect to the internet": "no answer",
    "connect to the internet by IPv6": "no answer",
    "connect to the cloud's metadata": "no answer",
}
REFUSED_BY_THE_OTHER_UNIT = {
    "read other's files by its process": "ENOENT",
    "read other's environment": "ENOENT",
    "trace other's process": "EPERM",
}
REFUSED_TO_ITS_USER = {
    "write beside its state": "EROFS",
    "write its configuration": "EROFS",
    "write its program": "EROFS",
    "read secrets": "EACCES",
    "mount": "EPERM",
    "listen on a privileged port": "EACCES",
}


@pytest.fixture
def neighbour(host: Deployment) -> tuple[str, str]:
    """Another node that runs: its state directory and its process. Beside it are a device and a file for everybody."""
    machine = host.machine
    machine.write("/tmp/others", "x")
    machine.run("mknod", "--mode=666", "/dev/device", "c", "1", "5", check=False)
    for address in ADDRESSES:
        machine.run("ip", "address", "replace", f"{address}/{128 if ':' in address else 32}", "dev", "lo")
    host.start("n1")
    return "/var/lib/kvnode/n1", str(host.pid("n1"))


def test_node_in_its_sandbox_can_do_what_it_needs_and_no_more(host: Deployment, neighbour: tuple[str, str]) -> None:
    """Its own state and private networks; no other node's state or process, no program but its own, no way out."""
    host.machine.write("/etc/kvnode/probe.py", PROBE.read_text())
    program = ("/opt/kvnode/bin/python", "/etc/kvnode/probe.py", "/var/lib/kvnode/probe")
    answers = host.in_place_of("probe", *program, *neighbour)
    assert answers == NEEDED | REFUSED_BY_THE_UNIT | REFUSED_BY_THE_OTHER_UNIT | REFUSED_TO_ITS_USER


def test_nodes_user_outside_of_the_sandbox_could_do_what_the_unit_refuses(host: Deployment, neighbour: tuple[str, str]) -> None:
    """The same probe as the same user without the unit gets through where the unit refuses: so it is the unit that does."""
    machine = host.machine
    machine.write("/etc/kvnode/probe.py", PROBE.read_text())
    machine.run("install", "-d", "-o", "kvnode", "-g", "kvnode", "/var/lib/kvnode/outside")
    command = ("python", "/etc/kvnode/probe.py", "/var/lib/kvnode/outside", *neighbour)
    as_user = ("setpriv", "--reuid=kvnode", "--regid=kvnode", "--clear-groups")
    answers = json.loads(machine.run(*as_user, f"/opt/kvnode/bin/{command[0]}", *command[1:]).stdout)
    refused = {name: answers[name] for name in REFUSED_BY_THE_UNIT if answers[name] not in ("ok", "ECONNREFUSED")}
    assert refused == {}
    assert {name: answers[name] for name in NEEDED} == NEEDED


def test_process_of_a_node_has_no_privilege_and_leaves_no_core(host: Deployment, neighbour: tuple[str, str]) -> None:
    """No capability, none to be gained, system calls filtered; files are for the node's user alone."""
    pid = neighbour[1]
    status = dict(
        line.split(":\t", 1) for line in host.machine.run("cat", f"/proc/{pid}/status").stdout.splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", "0077")
    assert "0" not in status["Uid"].split()
    limits = host.machine.run("cat", f"/proc/{pid}/limits").stdout
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    assert host.machine.path("/var/lib/kvnode/n1").stat().st_mode & 0o777 == 0o700
