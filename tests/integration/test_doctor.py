"""`kvnode doctor` beside real nodes: healthy, stopped, a stranger at a peer's address, a taken port, a newer format."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from kvctl.playground import Playground
from kvnode import __version__
from tests.integration import harness

OF_THE_MACHINE = {"sync latency", "disk space", "clock", "memory", "open files", "file system", "software"}
"""Checks whose outcome is this host's and not the test's."""


def command(cluster: Playground, name: str, *more: str) -> list[str]:
    """The doctor for one node of the cluster."""
    return [sys.executable, "-m", "kvnode", "doctor", "--config", str(cluster.node(name).config_path), "-o", "json", *more]


def examine(cluster: Playground, name: str, *more: str) -> dict[str, dict[str, Any]]:
    """What it finds, by name; the exit code is what it says of problems. Fails if it writes anything but its answer."""
    directory = cluster.node(name).config_path.parent
    done = subprocess.run(command(cluster, name, *more), capture_output=True, text=True, timeout=60, check=False, cwd=directory)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["problems"] else 0)
    assert told["problems"] == sum(finding["level"] == "problem" for finding in told["findings"])
    return {finding["name"]: finding for finding in told["findings"]}


def outcome(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """How each check went that the test has a say in."""
    return {name: finding["level"] for name, finding in found.items() if name not in OF_THE_MACHINE}


def test_doctor_beside_a_healthy_cluster_finds_nothing_wrong(cluster: Playground) -> None:
    """A node is in use by its own process, has its own port, reaches its peers, whose clocks agree; none is disturbed."""
    pids = {node.name: node.pid for node in cluster.nodes}
    for name in ("n1", "n2"):
        found = examine(cluster, name)
        others = {f"peer {other}" for other in cluster.names if other != name}
        good = {"data directory", "data format", "port", "clocks of peers", *others}
        assert outcome(found) == {**dict.fromkeys(good, "ok"), "configuration": "warning", "log": "skipped"}, found
        assert found["configuration"]["found"].startswith("log.level is debug")
        assert f"in use by process {pids[name]}" in found["data directory"]["found"]
        assert f"{cluster.node(name).address} is this node's: kvnode {__version__}" in found["port"]["found"]
        assert f"(of process {pids[name]})" in found["open files"]["found"]
        assert "writes of 4 KiB: p50 " in found["sync latency"]["found"]
        assert sorted(path.name for path in cluster.node(name).data_path.glob("*doctor*")) == []
    assert {node.name: node.pid for node in cluster.nodes} == pids
    harness.await_agreement(cluster)


def test_doctor_of_and_beside_a_stopped_node_says_so(cluster: Playground) -> None:
    """Its peers find nobody at its port; looked at by itself its log and store are whole, and its port is free."""
    cluster.stop("n3")
    beside = examine(cluster, "n1")
    assert outcome(beside)["peer n3"] == "warning"
    assert "refuses connections" in beside["peer n3"]["found"]
    assert "Start n3" in beside["peer n3"]["advice"]
    assert outcome(beside)["peer n2"] == "ok"
    before = {path: path.stat().st_mtime_ns for path in cluster.node("n3").data_path.rglob("*")}
    itself = examine(cluster, "n3")
    wanted = ("data directory", "data format", "identity", "log", "store", "port", "peer n1", "peer n2")
    assert {name: outcome(itself)[name] for name in wanted} == dict.fromkeys(wanted, "ok"), itself
    assert "not in use" in itself["data directory"]["found"]
    assert itself["identity"]["found"].startswith("node n3 of cluster ")
    assert {path: path.stat().st_mtime_ns for path in cluster.node("n3").data_path.rglob("*") if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_doctor_with_a_foreign_clusters_node_at_a_peers_address_names_it(cluster: Playground) -> None:
    """Somebody answers there, and of another cluster; its clock does not count."""
    with harness.playground(1) as foreign:
        address = foreign.node("n1").address
        found = examine(cluster, "n1", "--cluster.members.n2", address)
    assert found["peer n2"]["level"] == "problem"
    assert found["peer n2"]["found"].startswith(f"{address}: node n1 of cluster ")
    assert "nodes of two clusters refuse each other" in found["peer n2"]["advice"]
    assert "n2" not in found["clocks of peers"]["found"]
    assert found["peer n3"]["level"] == "problem", "n3 has n2 at another address than this configuration"
    assert "its cluster.members.n2 is " in found["peer n3"]["found"]


def test_doctor_of_a_node_whose_port_is_taken_names_the_process(cluster: Playground) -> None:
    """As a start would fail, and with who has the port."""
    cluster.stop("n3")
    host, _, port = cluster.node("n3").address.rpartition(":")
    with socket.create_server((host, int(port))):
        found = examine(cluster, "n3")
    assert found["port"]["level"] == "problem"
    assert f"is taken by process {os.getpid()} (" in found["port"]["found"]
    assert "give this node another port" in found["port"]["advice"]


def test_doctor_of_a_node_with_a_newer_format_says_which_release_reads_it(cluster: Playground) -> None:
    """And reads nothing else of the directory."""
    cluster.stop("n3")
    mark = cluster.node("n3").data_path / "FORMAT"
    ours = mark.read_text()
    mark.write_text("kvnode data format 2\nwritten by kvnode 9.1.0\n")
    try:
        found = examine(cluster, "n3")
    finally:
        mark.write_text(ours)
    assert found["data format"]["level"] == "problem"
    assert "has data format 2" in found["data format"]["found"]
    assert "Install kvnode 9.1.0" in found["data format"]["advice"]
    assert not {"identity", "log", "store"} & set(found)


def test_doctor_of_a_node_that_starts_meanwhile_does_not_keep_it_from_starting(cluster: Playground) -> None:
    """Neither the directory's lock nor the port is ever taken by the doctor."""
    cluster.stop("n2")
    doctors = [subprocess.Popen(command(cluster, "n2"), stdout=subprocess.PIPE) for _ in range(2)]
    try:
        cluster.start("n2")
    finally:
        said = [json.loads(doctor.communicate(timeout=60)[0]) for doctor in doctors]
    cluster.wait_caught_up("n2")
    assert [told["node"] for told in said] == ["n2", "n2"]
