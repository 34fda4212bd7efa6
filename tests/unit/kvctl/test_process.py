"""Processes are known by more than their pid, and end as told."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl import process
from kvctl.process import ProcessId, ProcessState

Spawn = Callable[..., ProcessId]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts shell commands, and ends what is left of them."""
    started: list[ProcessId] = []

    def start(command: str) -> ProcessId:
        started.append(process.spawn(["/bin/sh", "-c", command], cwd=tmp_path, log_path=tmp_path / "log"))
        return started[-1]

    yield start
    for one in started:
        process.send_signal(one, signal.SIGKILL)
        assert process.wait_gone(one, 5.0)


def test_process_started_runs_detached_in_its_own_session(spawn: Spawn) -> None:
    """A daemon gets a session of its own, so that the terminal's signals do not reach it."""
    started = spawn("exec sleep 60")
    assert process.state_of(started) is ProcessState.RUNNING
    session = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()[3]
    assert int(session) == started.pid


def test_process_output_is_appended_to_the_log(spawn: Spawn, tmp_path: Path) -> None:
    """Both outputs of all its lives end up in one file."""
    for word in ("first", "second"):
        assert process.wait_gone(spawn(f"echo {word}; echo {word} >&2"), 5.0)
    assert (tmp_path / "log").read_text().split() == ["first", "first", "second", "second"]


def test_process_killed_is_gone_and_leaves_no_zombie(spawn: Spawn) -> None:
    """After SIGKILL the process is gone for us, and collected."""
    started = spawn("exec sleep 60")
    assert process.send_signal(started, signal.SIGKILL)
    assert process.wait_gone(started, 5.0)
    assert not Path(f"/proc/{started.pid}").exists()
    assert not process.send_signal(started, signal.SIGKILL)


def test_process_paused_and_resumed_is_seen_as_such(spawn: Spawn) -> None:
    """SIGSTOP and SIGCONT show in the state that the kernel reports."""
    started = spawn("exec sleep 60")
    process.send_signal(started, signal.SIGSTOP)
    assert process.wait_state(started, ProcessState.PAUSED, 5.0)
    process.send_signal(started, signal.SIGCONT)
    assert process.wait_state(started, ProcessState.RUNNING, 5.0)


def test_pid_recycled_by_another_process_is_never_signalled(spawn: Spawn) -> None:
    """The same pid with another start time is a stranger: it counts as gone and survives a SIGKILL meant for its forerunner."""
    stranger = spawn("exec sleep 60")
    forerunner = replace(stranger, start_ticks=stranger.start_ticks - 1)
    assert process.state_of(forerunner) is ProcessState.GONE
    assert not process.send_signal(forerunner, signal.SIGKILL)
    assert process.wait_gone(forerunner, 0.0)
    assert process.state_of(stranger) is ProcessState.RUNNING


def test_pid_from_before_a_reboot_is_never_signalled(spawn: Spawn) -> None:
    """Start times of another boot mean nothing, even when pid and start time happen to agree."""
    stranger = spawn("exec sleep 60")
    assert not process.send_signal(replace(stranger, boot_id="another boot"), signal.SIGKILL)
    assert process.state_of(stranger) is ProcessState.RUNNING


def test_process_whose_first_thread_is_dead_is_not_gone(spawn: Spawn, tmp_path: Path) -> None:
    """It looks like a zombie, but its other threads still hold its files and ports: a restart would find them taken."""
    started = spawn(f"exec {sys.executable} -S {Path(__file__).with_name('headless.py')}")
    deadline = time.monotonic() + 5.0
    while process._stat(started.pid)[:1] != ["Z"]:  # type: ignore[index]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert process.state_of(started) is ProcessState.RUNNING
    assert not process.wait_gone(started, 0.02)
    assert process.send_signal(started, signal.SIGKILL)
    assert process.wait_gone(started, 5.0)


def test_wait_gone_returns_false_when_the_time_is_up(spawn: Spawn) -> None:
    """Waiting for a process that does not end is bounded."""
    began = time.monotonic()
    assert not process.wait_gone(spawn("exec sleep 60"), 0.02)
    assert time.monotonic() - began < 1.0
