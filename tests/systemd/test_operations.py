"""docs/operations.md, done: every command of the page is executed, and prints what the page shows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from kvnode.reload import RELOADABLE
from tests.systemd.lab.machine import Machine
from tests.systemd.lab.network import Network
from tests.systemd.page import Block, PageError, anchors, blocks, difference, inline_commands
from tests.systemd.workstation import Host, Workstation
from tests.tidy.source import ROOT

PAGE = ROOT / "docs" / "operations.md"
ALERTS = ROOT / "monitoring" / "prometheus" / "alerts.yml"
WORKSTATION, HOSTS = "workstation", ("kv1", "kv2", "kv3", "kv4")
BLOCKS = blocks(PAGE.read_text())
SECTIONS = list(dict.fromkeys(block.section for block in BLOCKS))
OWN_PROGRAMS = ("kvctl", "kvnode")
SOON_S = 20.0
POLL_INTERVAL_S = 0.1
QUICK = """
[Unit]
StartLimitBurst=3
[Service]
RestartSec=100ms
"""
"""On all hosts. A crashed node is back sooner than with the installed unit, and a crash loop is given up sooner (starts by hand
count, too); all that the page shows is the same."""


class Walk:
    """The way through the page, on hosts on which nothing is installed, 10.0.0.1 to 10.0.0.4: each block once, in order."""

    def __init__(self, places: dict[str, Host | Workstation]) -> None:
        self._places, self._left, self._failed = places, list(BLOCKS), ""

    def go_to_the_end_of(self, section: str) -> None:
        """Execute what is left up to there; each section needs what those before it have done."""
        if self._failed:
            pytest.fail(f"not reached: {self._failed} failed", pytrace=False)
        last = max(number for number, block in enumerate(self._left) if block.section == section)
        steps, self._left = self._left[: last + 1], self._left[last + 1 :]
        for block in steps:
            self._failed = f"{PAGE}:{block.line}"
            execute(block, self._places[block.place])
        self._failed = ""


@pytest.fixture(scope="session")
def walk(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """With nothing done yet."""
    with ExitStack() as stack:
        boots = stack.enter_context(ThreadPoolExecutor())  # (A machine ends with the thread that has started it.)
        network = stack.enter_context(Network())
        roots = [tmp_path_factory.mktemp(name) for name in HOSTS]
        found = boots.map(lambda root, name: Machine(None, root, name), roots, HOSTS)
        machines = {machine.name: stack.enter_context(machine) for machine in found}
        for number, machine in enumerate(machines.values(), 1):
            network.attach(machine, number)
            machine.add_drop_in("kvnode@.service", "quick", QUICK)
        workstation = Workstation(network, installed, tmp_path_factory.mktemp("workstation"), machines)
        yield Walk({WORKSTATION: workstation, **{name: Host(machine) for name, machine in machines.items()}})


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
    return difference(block.expected, printed)


@pytest.mark.parametrize("section", SECTIONS)
def test_operations_page_followed_to_the_letter_does_what_it_says(walk: Walk, section: str) -> None:
    """Each block of commands: its exit code, and every line of output that is shown."""
    walk.go_to_the_end_of(section)


# ---- the page itself ---------------------------------------------------------------------------------------------------


def test_blocks_of_the_page_are_all_to_be_executed_at_places_that_a_reader_is_told() -> None:
    """Every fence with commands is one of the blocks; those for hosts stand below a sentence that names the host."""
    text = PAGE.read_text()
    assert len(BLOCKS) == len(re.findall(r"^\s*```+ *(?:sh|bash|console|shell)\b", text, re.MULTILINE)) > 30
    assert {block.place for block in BLOCKS} == {WORKSTATION, *HOSTS}
    for block in BLOCKS:
        above = "\n".join(text.splitlines()[: block.line - 1]).rsplit("```\n", 1)[-1]
        assert block.place == WORKSTATION or block.place in above, f"{PAGE}:{block.line}: say above it: on {block.place}"


def test_commands_of_ours_in_the_page_s_text_are_executed_somewhere_in_it() -> None:
    """Whoever types what stands in a sentence gets what a test has seen: `kvctl` and `kvnode` with that subcommand."""
    executed = " ".join(" ".join(block.commands.split()) for block in BLOCKS)
    for line, command in inline_commands(PAGE.read_text(), OWN_PROGRAMS):
        assert command in executed, f"{PAGE}:{line}: {command} is in the text, and in no block"


def test_settings_that_the_page_calls_reloadable_are_those_that_are() -> None:
    """Its table has one row for each, in the order of the code."""
    table = PAGE.read_text().partition("### Reload\n")[2].partition("\n\nFor instance")[0]
    assert re.findall(r"^\| `([a-z_.]+)`", table, re.MULTILINE) == list(RELOADABLE)


def test_alerts_that_link_to_the_page_link_to_a_section_that_names_them() -> None:
    """An alert's link leads to what to do about it."""
    text = PAGE.read_text()
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"] if "alert" in rule]
    linked = {rule["alert"]: rule["annotations"]["runbook"].partition("#") for rule in rules}
    ours = {alert: anchor for alert, (page, _, anchor) in linked.items() if page == "docs/operations.md"}
    assert len(ours) > 10
    sections = anchors(text)
    assert {alert: anchor for alert, anchor in ours.items() if f"`{alert}`" not in sections.get(anchor, "")} == {}


def test_links_of_the_page_lead_somewhere() -> None:
    """Files that are there, and anchors of this page and others."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGE.read_text()):
        path, _, anchor = target.partition("#")
        file = (PAGE.parent / path) if path else PAGE
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


# ---- how it is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        "```sh\nls\n```\n",
        "```sh kv1 later\nls\n```\n",
        "```bash kv1\nls\n```\n",
        "```\nls\n```\n",
        "```sh kv1\nls\n",
        "```text\nfile\n```\n",
        "```sh kv1\nls\n```\n\n```text\nfile\n```\n",
    ],
)
def test_block_of_a_page_without_place_language_or_end_or_output_of_nothing_is_refused(page: str) -> None:
    """Nothing is passed over in silence."""
    with pytest.raises(PageError):
        blocks(page)


def test_output_that_is_compared_may_differ_only_where_the_page_has_dots() -> None:
    """Within a line, or whole lines; blanks do not count."""
    printed = "NODE  UP\nn1    3.1 s\nn2    4.1 s\nhealthy\n"
    assert difference(["NODE UP", "n1 … s", "n2 … s", "healthy"], printed) == ""
    assert difference(["…", "healthy"], printed) == ""
    assert difference(["NODE UP", "…"], printed) == ""
    assert difference(["NODE UP", "n1 … s", "healthy"], printed) == "not printed, or not there: healthy"
    assert difference(["NODE UP", "n1 … ms", "…"], printed) == "not printed, or not there: n1 … ms"
    assert difference(["NODE UP"], printed) == "more was printed than is shown"
    assert difference(["NODE.UP", "…"], printed) != ""
