"""Machines with kvnode installed. Where none can boot, all tests of this directory are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.deployment import Deployment
from tests.systemd.lab.machine import Machine
from tests.systemd.lab.requirements import why_not
from tests.systemd.lab.stage import stage


@pytest.fixture(scope="session")
def installed() -> Path:
    """What `make install` puts where, for machines to show as theirs."""
    if reason := why_not():
        pytest.skip(f"no machine with systemd can boot here: {reason}")
    return stage()


@pytest.fixture(scope="session")
def one_host(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A machine with three nodes, n1 to n3, on it; they are configured, and not started."""
    with Machine(installed, tmp_path_factory.mktemp("root")) as machine:
        deployment = Deployment(machine)
        deployment.configure({name: f"127.0.0.1:{7400 + number}" for number, name in enumerate(("n1", "n2", "n3"), 1)})
        yield deployment


@pytest.fixture
def host(one_host: Deployment, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The same, with the end of its journal in the report of a test that fails."""
    failed_before = request.session.testsfailed
    yield one_host
    if request.session.testsfailed > failed_before:
        one_host.print_journal()
