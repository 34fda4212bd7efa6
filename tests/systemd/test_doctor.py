"""`kvnode doctor` as root, beside services that run as a user of their own."""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.deployment import Deployment

DOCTOR = ("kvnode", "doctor", "-o", "json", "--config")


def _examine(host: Deployment, name: str) -> dict[str, dict[str, Any]]:
    done = host.machine.run(*DOCTOR, f"/etc/kvnode/{name}.toml", check=False)
    told = json.loads(done.stdout)
    assert told["user"] == "kvnode"
    assert done.returncode == (1 if told["problems"] else 0)
    return {finding["name"]: finding for finding in reversed(told["findings"])}


def test_doctor_beside_a_service_looks_with_its_users_eyes(host: Deployment) -> None:
    """Whose directory it is, which process has it, that process's own limits, and its port and peers."""
    host.start_all()
    pid = host.pid("n1")
    found = _examine(host, "n1")
    good = ("configuration", "data directory", "data format", "port", "peer n2", "peer n3", "clocks of peers", "open files")
    for name in good:
        assert found[name]["level"] == "ok", found[name]
    assert found["data directory"]["found"] == (
        f"/var/lib/kvnode/n1 of user kvnode, looked at by root, in use by process {pid}"
    )
    assert f"(of process {pid})" in found["open files"]["found"]
    assert host.pid("n1") == pid


def test_doctor_of_a_stopped_service_finds_what_would_keep_it_from_starting(host: Deployment) -> None:
    """Its log is whole; but a file that root made in its directory, and a configuration that it cannot read, are found, with
    the words that repair them."""
    machine = host.machine
    host.start_all()
    host.stop("n3")
    found = _examine(host, "n3")
    assert [found[name]["level"] for name in ("identity", "log", "store", "port")] == ["ok"] * 4
    machine.run("chown", "root:root", "/var/lib/kvnode/n3/ballast", "/etc/kvnode/n3.toml")
    try:
        ill = machine.run(*DOCTOR, "/etc/kvnode/n3.toml", check=False)
        told = [finding for finding in json.loads(ill.stdout)["findings"] if finding["level"] == "problem"]
    finally:
        machine.run("chgrp", "kvnode", "/etc/kvnode/n3.toml")
    assert [finding["name"] for finding in told][:2] == ["configuration", "data directory"]
    assert "/etc/kvnode/n3.toml cannot be read by kvnode" in told[0]["found"]
    assert "/var/lib/kvnode/n3/ballast belongs to root, and kvnode may not write it" in told[1]["found"]
    machine.run("sh", "-c", told[1]["advice"].removeprefix("As root: "))
    host.start("n3")


def test_doctor_before_the_first_start_expects_the_units_user(host: Deployment) -> None:
    """Nothing of the node is there yet: the unit will make its directory, for the user that it names."""
    host.write_configuration("fresh", alone_at="127.0.0.1:7409")
    found = _examine(host, "fresh")
    assert "a unit with StateDirectory= does" in found["data directory"]["found"]
    assert found["port"]["level"] == "ok"
