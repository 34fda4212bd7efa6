"""`systemctl reload`: what can change while a node runs does, what cannot is said, and a mistake changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.deployment import Deployment
from tests.systemd.lab.journal import ERROR

UNIT = "kvnode@n1"


@pytest.fixture
def node(host: Deployment) -> Iterator[Deployment]:
    """n1 runs, and has its own configuration back afterwards."""
    host.start_all()
    yield host
    since = host.machine.mark()
    host.write_configuration("n1")
    host.machine.run("systemctl", "reload", UNIT)
    _reloaded(host, since)


def _reloaded(host: Deployment, since: str) -> dict[str, object]:
    """What the node says of the reload."""

    def told() -> dict[str, object] | None:
        entries = host.machine.journal(UNIT, since=since)
        return next((entry.fields for entry in entries if entry.event == "reloaded"), None)

    found = host.machine.until(told, "the end of the reload")
    assert found is not None
    return found


def test_reload_of_a_node_applies_what_can_be_applied_and_names_the_rest(node: Deployment) -> None:
    """The level of its log changes at once; what takes a restart is in the status line until there is one."""
    pid, since = node.pid("n1"), node.machine.mark()
    node.write_configuration("n1", {"log.level": '"debug"', "election.timeout_ms_min": "900"})
    node.machine.run("systemctl", "reload", UNIT)
    assert _reloaded(node, since)["applied"] == ["log.level = 'debug' (was 'info')"]
    waiting = "; a restart is needed for election.timeout_ms_min"
    node.machine.until(lambda: node.property("n1", "StatusText").endswith(waiting), "what takes a restart, in the status")
    assert (node.pid("n1"), node.property("n1", "ActiveState")) == (pid, "active")


def test_reload_with_a_mistake_in_the_file_fails_and_changes_nothing(node: Deployment) -> None:
    """`systemctl reload` fails, with the reason in the journal; the node has not even been asked."""
    pid, since = node.pid("n1"), node.machine.mark()
    node.write_configuration("n1", {"log.level": '"debug"', "election.timeout_min": "900"})
    assert node.machine.run("systemctl", "reload", UNIT, check=False).returncode
    entries = node.machine.journal(UNIT, since=since)
    assert any("election.timeout_min: unknown field" in entry.message for entry in entries if entry.priority <= ERROR)
    assert not [entry for entry in entries if entry.event == "reloaded"]
    assert (node.pid("n1"), node.property("n1", "ActiveState")) == (pid, "active")
