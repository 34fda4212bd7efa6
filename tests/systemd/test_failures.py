"""Nodes that cannot run: systemd tries again where that may help, gives up where it cannot; either way it is plain to see."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.systemd.deployment import Deployment
from tests.systemd.lab.journal import CRITICAL, ERROR
from tests.systemd.lab.machine import Machine

NOWHERE = "192.0.2.99:7409"
"""An address of no interface of this machine."""
SLEEP = "import time; time.sleep(1000)"
HOPELESS, HANGING, UNABLE, DISK_FAILED = (f"kvnode@{name}.service" for name in ("n9", "n8", "n7", "n6"))
"""Nodes that fail: at once and always, not at all for want of progress, for each reason that needs a person."""


@pytest.fixture(scope="module", autouse=True)
def begun(one_host: Deployment) -> str:
    """A node is started that cannot run, and fails while the other tests of this module run; answers when, as a mark."""
    # (All drop-ins come before that: whenever units are loaded again, systemd forgets how often they have been started.)
    python = "ExecStart=\nExecStart=/opt/kvnode/bin/python -c"
    one_host.machine.add_drop_in(HANGING, "hangs", f"[Service]\nTimeoutStartSec=1s\nRestart=no\n{python} {SLEEP!r}\n")
    one_host.machine.add_drop_in(DISK_FAILED, "fails", f"[Service]\n{python} 'import sys; sys.exit(74)'\n")
    one_host.write_configuration("n9", alone_at=NOWHERE)
    since = one_host.machine.mark()
    one_host.machine.run("systemctl", "start", "--no-block", HOPELESS)
    return since


def _settled(machine: Machine, unit: str) -> dict[str, str]:
    """A unit that has failed for good."""

    def failed() -> dict[str, str] | None:
        shown = machine.show(unit, "ActiveState", "Result", "NRestarts", "ExecMainStatus")
        return shown if shown["ActiveState"] == "failed" else None

    found = machine.until(failed, f"the failure of {unit}")
    assert found is not None
    return found


def _misspelt_setting(host: Deployment) -> None:
    host.write_configuration("n7", {"node.lisen": '"127.0.0.1:7407"'}, alone_at="127.0.0.1:7407")


def _directory_of_a_newer_release(host: Deployment) -> None:
    host.write_configuration("n7", alone_at="127.0.0.1:7407")
    host.machine.write("/var/lib/kvnode/n7/FORMAT", "kvnode data format 99\nwritten by kvnode 9.1.0\n")
    host.machine.run("chown", "-R", "kvnode:kvnode", "/var/lib/kvnode/n7")


@pytest.mark.parametrize(
    ("prepare", "unit", "code", "said"),
    [
        (_misspelt_setting, UNABLE, 78, "node.lisen: unknown field .* did you mean listen"),
        (_directory_of_a_newer_release, UNABLE, 65, "has data format 99, .* Install kvnode 9.1.0"),
        (lambda _: None, DISK_FAILED, 74, "Failed to start"),
    ],
    ids=["configuration", "data", "disk"],
)
def test_node_that_needs_a_person_is_not_started_again(
    host: Deployment, prepare: Callable[[Deployment], None], unit: str, code: int, said: str
) -> None:
    """Another start cannot cure a wrong configuration, unknown data or a broken disk: it stays down, and says what to do."""
    machine = host.machine
    prepare(host)
    since = machine.mark()
    assert machine.run("systemctl", "start", unit, check=False).returncode
    shown = machine.show(unit, "ActiveState", "Result", "NRestarts", "ExecMainStatus")
    assert shown == {"ActiveState": "failed", "Result": "exit-code", "NRestarts": "0", "ExecMainStatus": str(code)}
    errors = [entry.message for entry in machine.journal(unit, since=since) if entry.priority <= ERROR]
    assert any(re.search(said, message) for message in errors), errors


def test_node_that_hangs_at_its_start_is_ended_with_a_traceback(host: Deployment) -> None:
    """A start without progress is no start; where it hung is in the journal."""
    machine = host.machine
    since = machine.mark()
    assert machine.run("systemctl", "start", HANGING, check=False).returncode
    assert machine.show(HANGING, "Result")["Result"] == "timeout"
    said = [entry.message for entry in machine.journal(HANGING, since=since)]
    assert "Fatal Python error: Aborted" in said
    assert '  File "<string>", line 1 in <module>' in said


def test_node_that_fails_again_and_again_ends_as_failed_with_its_reason_in_the_journal(host: Deployment, begun: str) -> None:
    """Six starts, and no more: `systemctl --failed` has it, the journal has the reason of each and that it was given up."""
    machine = host.machine
    shown = _settled(machine, HOPELESS)
    assert (shown["Result"], shown["ExecMainStatus"], shown["NRestarts"]) == ("exit-code", "1", "6")
    assert HOPELESS in machine.run("systemctl", "--failed", "--plain", "--no-legend").stdout
    entries = machine.journal(HOPELESS, since=begun)
    reasons = [entry for entry in entries if entry.event == "cannot start"]
    assert [entry.priority for entry in reasons] == [CRITICAL] * 6
    assert all(NOWHERE.partition(":")[0] in str(entry.fields["error"]) for entry in reasons)
    assert any("Start request repeated too quickly" in entry.message for entry in entries)
    assert any("Failed to start" in entry.message and entry.priority <= ERROR for entry in entries)
    assert machine.run("systemctl", "start", HOPELESS, check=False).returncode  # Nobody starts it by accident,
    machine.run("systemctl", "reset-failed", HOPELESS)  # but who means it.
    assert machine.show(HOPELESS, "ActiveState")["ActiveState"] == "inactive"
