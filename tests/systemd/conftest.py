"""Machines with kvnode installed. Where none can boot, all tests of this directory are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.packaging import stage
from tests.systemd.deployment import Deployment, Hosts, print_journal
from tests.systemd.lab.machine import Machine
from tests.systemd.lab.network import Network
from tests.systemd.lab.requirements import why_not


@pytest.fixture(scope="session")
def installed() -> Path:
    """What `make install` puts where, for machines to show as theirs."""
    if reason := why_not() or stage.why_not():
        pytest.skip(f"no machine with systemd here: {reason}")
    return stage.staged()


@pytest.fixture(scope="session")
def one_host(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A machine with three nodes on it; they are configured, and not started."""
    with Machine(installed, tmp_path_factory.mktemp("root")) as machine:
        yield Deployment(machine, {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7402", "n3": "127.0.0.1:7403"})


@pytest.fixture
def host(one_host: Deployment, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The same, with the end of its journal in the report of a test that fails."""
    failed_before = request.session.testsfailed
    yield one_host
    if request.session.testsfailed > failed_before:
        print_journal(one_host.machine)


@pytest.fixture(scope="module")
def three_hosts(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three machines on a private network, 10.0.0.1 to 10.0.0.3, with nothing configured yet."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        machines = {}
        for number in (1, 2, 3):
            machine = stack.enter_context(Machine(installed, tmp_path_factory.mktemp(f"host{number}"), f"host{number}"))
            network.attach(machine, number)
            machines[f"n{number}"] = machine
        yield Hosts(network, machines)


@pytest.fixture(scope="module")
def cluster(three_hosts: Hosts) -> Hosts:
    """The same, each running its node on the example's configuration as it is; they are healthy."""
    for name, machine in three_hosts.machines.items():
        example = f"/usr/share/kvnode/examples/{name}.toml"
        machine.run("install", "-m", "0640", "-g", "kvnode", example, f"/etc/kvnode/{name}.toml")
        machine.run("systemctl", "enable", "--quiet", "--now", "--no-block", f"kvnode@{name}")
    three_hosts.machines["n1"].run("kvctl", "--endpoints", "10.0.0.1:7401", "health", "--wait", "60")
    return three_hosts


@pytest.fixture
def hosts(three_hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """The three machines, with the ends of their journals in the report of a test that fails."""
    failed_before = request.session.testsfailed
    yield three_hosts
    if request.session.testsfailed > failed_before:
        for machine in three_hosts.machines.values():
            print_journal(machine)
