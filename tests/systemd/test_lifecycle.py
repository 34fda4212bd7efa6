"""Three nodes on one machine under systemd: they start, stop, crash, hang and come back, and it knows."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import kvclient
from tests.systemd.deployment import Deployment
from tests.systemd.lab.journal import ERROR, Entry


def _position(entries: list[Entry], text: str) -> int:
    """Where in the journal something is said the first time."""
    found = [number for number, entry in enumerate(entries) if text in entry.message]
    assert found, f"{text!r} is not among {[entry.message for entry in entries]}"
    return found[0]


async def _write(client: kvclient.AsyncClient, keys: list[str]) -> None:
    await asyncio.gather(*(client.put(key, f"value of {key}") for key in keys))


async def _missing(client: kvclient.AsyncClient, keys: list[str]) -> list[str]:
    found = await asyncio.gather(*(client.get(key) for key in keys))
    return [key for key, value in zip(keys, found, strict=True) if value is None or value.text != f"value of {key}"]


def test_node_that_systemd_calls_started_has_its_port_open(host: Deployment) -> None:
    """`systemctl start` comes back when the node serves, and not before."""
    host.stop()
    since = host.machine.mark()
    host.start()
    for address in host.addresses.values():
        ip, _, port = address.partition(":")
        host.machine.call(lambda place=(ip, int(port)): socket.create_connection(place, 5).close())  # type: ignore[misc]
    for name in host.names:
        entries = host.machine.journal(f"kvnode@{name}", since=since)
        assert _position(entries, '"event":"recovered"') < _position(entries, '"event":"serving"')
        assert _position(entries, '"event":"serving"') < _position(entries, f"Started kvnode@{name}")


def test_status_of_a_cluster_that_serves_tells_leaders_term_and_lag(host: Deployment) -> None:
    """`systemctl status` has it in one line; the nodes' lines add up to all shards."""
    host.start_all()
    expected = re.compile(r"ACTIVE: leads \d of 8 shards, term [1-9]\d*, lag \d+ entries")
    for name in host.names:
        host.machine.until(lambda name=name: expected.fullmatch(host.property(name, "StatusText")), f"the status of {name}")  # type: ignore[misc]


def test_nodes_killed_all_at_once_come_back_with_every_acknowledged_write(host: Deployment) -> None:
    """kill -9 of all three: what was acknowledged is on their disks, systemd starts them again, and they find each other."""
    host.start_all()
    keys = [f"killed/{number}" for number in range(50)]
    host.with_client(lambda client: _write(client, keys))
    before = {name: host.restarts(name) for name in host.names}
    host.machine.run("systemctl", "kill", "--signal=KILL", *(f"kvnode@{name}" for name in host.names))
    for name in host.names:
        host.await_restart(name, before[name])
    assert host.with_client(lambda client: _missing(client, keys)) == []


def test_node_that_hangs_is_ended_by_the_watchdog_and_started_again(host: Deployment) -> None:
    """A stopped process gives no sign of life. The journal says so, and where each of its threads was; the data is whole."""
    machine = host.machine
    machine.add_drop_in("kvnode@n2.service", "watchdog", "[Service]\nWatchdogSec=2s\n")
    host.stop("n2")
    host.start_all()
    keys = [f"hung/{number}" for number in range(20)]
    host.with_client(lambda client: _write(client, keys))
    before, since = host.restarts("n2"), machine.mark()
    machine.run("kill", "-STOP", str(host.pid("n2")))
    host.await_restart("n2", before)
    said = [entry.message for entry in machine.journal("kvnode@n2", since=since)]
    assert any("Watchdog timeout (limit 2s)!" in message for message in said)
    assert any("Failed with result 'watchdog'" in message for message in said)
    assert "Fatal Python error: Aborted" in said
    assert any(re.match(r'  File ".*kvnode/process.py", line \d+ in run_node', message) for message in said)
    machine.remove_drop_in("kvnode@n2.service", "watchdog")
    assert host.with_client(lambda client: _missing(client, keys)) == []


def test_node_under_load_stops_in_order_and_within_5_s(host: Deployment) -> None:
    """It says that it stops, hands over what it leads, ends with 0, and is not started again."""
    host.start_all()
    most = max(host.names, key=host.leads)
    since, unit = host.machine.mark(), f"kvnode@{most}"

    async def stop_under_load(client: kvclient.AsyncClient) -> float:
        over = asyncio.Event()

        async def load(writer: int) -> None:
            while not over.is_set():
                await client.put(f"load/{writer}", "x")

        async with asyncio.TaskGroup() as group:
            for writer in range(16):
                group.create_task(load(writer))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await asyncio.to_thread(host.stop, most)
            took = time.monotonic() - began
            over.set()
        return took

    assert host.with_client(stop_under_load) < 5
    shown = host.machine.show(unit, "ActiveState", "Result", "ExecMainStatus")
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    entries = host.machine.journal(unit, since=since)
    order = ['"event":"stopping"', '"role":"follower"', '"event":"stopped"', "Deactivated successfully"]
    assert [_position(entries, text) for text in order] == sorted(_position(entries, text) for text in order)
    assert not [entry for entry in entries if entry.priority <= ERROR]


def test_node_that_was_told_to_end_by_a_signal_stays_down(host: Deployment) -> None:
    """SIGTERM from anybody is a wish, not a crash: the same orderly end, and no restart."""
    host.start_all()
    host.machine.run("kill", "-TERM", str(host.pid("n3")))
    host.machine.until(lambda: host.property("n3", "ActiveState") == "inactive", "the end of n3")
    assert host.property("n3", "Result") == "success"


def test_target_of_all_nodes_stops_and_starts_them_together(host: Deployment) -> None:
    """`kvnode.target` is for whole hosts: it stops every node, however that was started, and starts those that are enabled; so
    does a boot."""
    machine = host.machine
    host.start_all()

    def states() -> list[str]:
        return [host.property(name, "ActiveState") for name in host.names]

    machine.run("systemctl", "enable", "--quiet", "kvnode@n1", "kvnode@n2")
    for start in ("kvnode.target", "multi-user.target"):
        machine.run("systemctl", "stop", "kvnode.target")  # (It does not wait for them.)
        machine.until(lambda: states() == ["inactive"] * 3, "the end of all nodes")
        machine.run("systemctl", "start", start)
        assert states() == ["active", "active", "inactive"]
    machine.run("systemctl", "disable", "--quiet", "kvnode@n1", "kvnode@n2")
