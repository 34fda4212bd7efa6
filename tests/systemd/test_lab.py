"""The lab itself: it leaves nothing behind, whatever happens to who uses it, and says why it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.systemd.lab import requirements
from tests.systemd.lab.machine import Machine, control_groups_of, remove_leftovers
from tests.tidy.source import ROOT

TIMEOUT_S = 10.0
MAKER = """
import sys, time
from pathlib import Path
from tests.systemd.lab.machine import Machine
from tests.systemd.lab.network import Network
network, machine = Network(), Machine(Path(sys.argv[1]), Path(sys.argv[2]))
network.attach(machine, 1)
print(machine.pid, flush=True)
time.sleep(1000)
"""


def test_machine_whose_maker_is_killed_ends_with_it(installed: Path, tmp_path: Path) -> None:
    """No handler runs after kill -9: the kernel ends the machine, and the next one removes the control groups that are left."""
    command = [sys.executable, "-c", MAKER, str(installed), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as maker:
        assert maker.stdout is not None
        systemd = Path(f"/proc/{int(maker.stdout.readline())}")
        assert systemd.exists()
        maker.kill()
        maker.wait()
        deadline = time.monotonic() + TIMEOUT_S
        while systemd.exists():
            assert time.monotonic() < deadline, "the machine outlives its maker"
            time.sleep(0.05)
    assert len(control_groups_of(maker.pid)) == 1
    remove_leftovers()
    assert control_groups_of(maker.pid) == []


def test_machine_that_is_halted_or_killed_leaves_nothing(installed: Path, tmp_path: Path) -> None:
    """Neither a process, nor a mount on this host, nor a control group."""
    mounts = Path("/proc/self/mounts").read_text()
    before = control_groups_of(os.getpid())
    with Machine(installed, tmp_path) as machine:
        assert len(control_groups_of(os.getpid())) == len(before) + 1
        systemd = Path(f"/proc/{machine.pid}")
        machine.halt()
    assert not systemd.exists()
    assert Path("/proc/self/mounts").read_text() == mounts
    assert not list(tmp_path.iterdir())
    assert control_groups_of(os.getpid()) == before


def test_lab_where_something_is_missing_says_what(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason why its tests are skipped: a missing program with its package, or that this is not root."""
    monkeypatch.setitem(requirements.PROGRAMS, "nodebian", ("noprogram",))
    assert requirements.why_not.__wrapped__() == "needs noprogram, of Debian's package nodebian"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert requirements.why_not.__wrapped__() == "needs root, for namespaces and mounts"
