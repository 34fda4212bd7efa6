"""The end of a process: what it ends with when the stop does not succeed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvnode import process
from kvnode.process import Process
from kvnode.runtime.service_manager import ServiceManager
from kvnode.storage.disk import DiskFailed


async def done() -> None:
    """What a part that ends at once does."""


def stopping(hand_over: Any = done, stop: Any = done) -> Process:
    """A process whose node leaves and stops so."""
    config: Any = SimpleNamespace()
    one: Any = Process(config, lambda: config, ServiceManager({}))
    one._supervision = SimpleNamespace(stop=lambda: None)
    one._server = SimpleNamespace(set_health=lambda states: None, stop=lambda grace: done())
    recorder = SimpleNamespace(flush=lambda: None)
    one._node = SimpleNamespace(hand_over=hand_over, stop=lambda within: stop(), observer=SimpleNamespace(recorder=recorder))
    one._tracing = SimpleNamespace(shutdown=lambda within: None)
    return one  # type: ignore[no-any-return]


async def ended(one: Process) -> tuple[int, str]:
    """Its exit code, and the error that it says."""
    with capture_logs() as logs:
        code = await one._stop()
    return code, next((entry["error"] for entry in logs if entry["log_level"] == "critical"), "")


async def test_stop_in_good_order_ends_with_0() -> None:
    """Nothing is said to be wrong."""
    assert await ended(stopping()) == (0, "")


async def test_stop_whose_last_write_fails_ends_as_a_failed_disk() -> None:
    """A person has to look at it, whether it is a signal or the service manager that ends the node."""

    async def fail() -> None:
        raise DiskFailed("cannot sync")

    assert await ended(stopping(stop=fail)) == (74, "cannot sync")


async def test_stop_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that it had is in the message."""
    monkeypatch.setattr(process, "STOP_MAX", 0.01)
    assert await ended(stopping(hand_over=asyncio.Event().wait)) == (1, "not done after 0.01 s")


async def test_stop_during_which_the_node_fails_ends_at_once_with_that() -> None:
    """Nothing may be acknowledged any more, so that there is nothing to wait for."""
    one = stopping(hand_over=asyncio.Event().wait)
    asyncio.get_running_loop().call_soon(one._on_fatal, DiskFailed("cannot write"))
    code, error = await asyncio.wait_for(ended(one), 10)
    assert (code, "cannot write" in error) == (74, True)
