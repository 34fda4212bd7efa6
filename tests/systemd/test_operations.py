"""docs/operations.md, done: every command of the page is executed, and prints what the page shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.systemd.lab.machine import Machine
from tests.systemd.lab.network import Network
from tests.systemd.page import Block, blocks, difference
from tests.systemd.workstation import Host, Workstation
from tests.tidy.source import ROOT

PAGE = ROOT / "docs" / "operations.md"
HOSTS = ("kv1", "kv2", "kv3", "kv4")
SOON_S = 20.0
POLL_INTERVAL_S = 0.1
QUICK = """
[Service]
RestartSec=100ms
"""
"""On all hosts. That a crashed node is back sooner than with the installed unit changes nothing of what the page says."""

Places = dict[str, Host | Workstation]


@pytest.fixture(scope="session")
def places(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The hosts, on which nothing is installed, 10.0.0.1 to 10.0.0.4, and the workstation."""
    with ExitStack() as stack:
        boots = stack.enter_context(ThreadPoolExecutor())  # (A machine ends with the thread that has started it.)
        network = stack.enter_context(Network())
        found = boots.map(lambda name: Machine(None, tmp_path_factory.mktemp(name), name), HOSTS)
        machines = {machine.name: stack.enter_context(machine) for machine in found}
        for number, machine in enumerate(machines.values(), 1):
            network.attach(machine, number)
            machine.add_drop_in("kvnode@.service", "quick", QUICK)
        workstation = Workstation(network, installed, tmp_path_factory.mktemp("workstation"), machines)
        yield {"workstation": workstation, **{name: Host(machine) for name, machine in machines.items()}}


def test_operations_page_followed_to_the_letter_does_what_it_says(places: Places) -> None:
    """Each block of commands, from nothing to the end: its exit code, and every line of output that is shown."""
    for block in blocks(PAGE.read_text()):
        execute(block, places[block.place])


def execute(block: Block, place: Host | Workstation) -> None:
    """Run a block of the page, and compare; one that only looks again and again, until it sees what it should."""
    began = time.monotonic()
    while why := judge(block, *(done := place.run(block.commands))):
        if not block.is_repeatable or time.monotonic() - began > SOON_S:
            told = f"--- on {block.place}\n{block.commands}--- printed\n{done[1]}"
            pytest.fail(f"{PAGE}:{block.line}: {why}\n{told}", pytrace=False)
        time.sleep(POLL_INTERVAL_S)
    print(f"{PAGE.name}:{block.line} on {block.place}, {time.monotonic() - began:.1f} s")


def judge(block: Block, exit_code: int, printed: str) -> str:
    """What is not as the page says; "" if all is."""
    if exit_code != block.exit_code:
        return f"exit code {exit_code}, not {block.exit_code}"
    return difference(block.expected, printed) if block.expected is not None else ""
