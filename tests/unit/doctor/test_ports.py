"""Ports: free, this node's, somebody else's, or nobody's to have."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvnode import __version__
from kvnode.doctor.asking import Answer, Silence
from kvnode.doctor.finding import Level
from kvnode.doctor.ports import (
    bind,
    check_port,
    check_ports,
    decode_address,
    holder_of_port,
    judge_holder,
    metrics_of,
    reachable,
)
from kvnode.doctor.subject import Subject
from kvnode.observe.metrics_server import encode, page, plain
from kvwire import addresses
from tests.unit.doctor.subjects import make_subject

OWN = Answer("orders", "n1", __version__, {}, 8, 7200.0, 0.001, 0.0)
SILENT = Silence("refuses connections", is_refused=True)


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def subject_at(listen: str, path: Path, pid: int = 0, **settings: str) -> Subject:
    """A node of its own cluster that listens there."""
    subject = make_subject(path, pid, **settings)
    return replace(
        subject, config=subject.config.model_copy(update={"node": subject.config.node.model_copy(update={"listen": listen})})
    )


def free_address() -> str:
    """One that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_port_that_is_free_is_fine_and_stays_free(tmp_path: Path) -> None:
    """The check listens nowhere, not for a moment: a node that starts meanwhile finds the port free."""
    address = free_address()
    sockets = addresses.listen(addresses.parse(address), reuse_port=False)  # a node between bind and listen
    found = check_port(subject_at(address, tmp_path), SILENT)
    assert (found.level, found.found) == (Level.OK, f"{address} is free")
    for sock in sockets:
        sock.listen()
        sock.close()


def test_port_that_is_free_although_the_node_runs_is_warned_about(tmp_path: Path) -> None:
    """It starts just now, or listens where its old configuration said."""
    found = check_port(subject_at(free_address(), tmp_path, pid=17), SILENT)
    assert found.level == Level.WARNING
    assert "although process 17 has the data directory" in found.found


def test_port_of_a_stranger_is_a_problem_and_names_the_process(taken: str, tmp_path: Path) -> None:
    """Who listens is found in /proc: here it is this very process."""
    found = check_port(subject_at(taken, tmp_path), Silence("says nothing", is_other=True))
    assert found.level == Level.PROBLEM
    assert f"{taken} is taken by process {os.getpid()} (" in found.found
    assert holder_of_port(free_address()) == ""
    port = taken.rpartition(":")[2]
    assert holder_of_port(f"192.0.2.1:{port}") == "", "it listens elsewhere, on the same port"
    assert [holder_of_port(f"{host}:{port}") != "" for host in ("0.0.0.0", "[::]", "localhost")] == [True] * 3


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (OWN, Level.OK, f"10.0.0.1:7401 is this node's: kvnode {__version__}, up for 2 h"),
        (OWN._replace(name="n2"), Level.PROBLEM, "taken by process 5 (x): node n2 of cluster orders"),
        (OWN._replace(cluster_id="play"), Level.PROBLEM, "taken by process 5 (x): node n1 of cluster play"),
        (Silence("says nothing"), Level.PROBLEM, "taken by process 5 (x), and no kvnode answers there: says nothing"),
    ],
)
def test_port_that_is_held_is_this_nodes_or_somebody_elses(
    tmp_path: Path, answer: Answer | Silence, level: Level, words: str
) -> None:
    """Only the node itself, of the same cluster, may have it."""
    found = judge_holder(make_subject(tmp_path).config, answer, "process 5 (x)")
    assert (found.level, words in found.found) == (level, True), found


def test_port_at_an_address_of_another_host_is_a_problem(tmp_path: Path) -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    found = check_port(subject_at("192.0.2.1:7401", tmp_path), SILENT)
    assert (found.level, found.found) == (Level.PROBLEM, "192.0.2.1:7401 is no address of this host, now")


def test_port_for_root_only_is_a_problem_for_another_user(tmp_path: Path) -> None:
    """Root could bind it, the service cannot."""
    subject = replace(subject_at("127.0.0.1:7", tmp_path), uid=12345)
    found = check_port(subject, SILENT)
    assert found.level == Level.PROBLEM
    assert bind("127.0.0.1:7") is not None or "only root may listen there" in found.found


async def test_metrics_port_that_serves_this_nodes_metrics_is_fine(tmp_path: Path) -> None:
    """Its page says whose they are."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(encode(plain("200 OK", "")._replace(body=page("n1"))))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await metrics_of(address) == "n1"
        subject = subject_at(free_address(), tmp_path, metrics__listen=address)
        assert (await check_ports(subject, SILENT))[1] == ("metrics port", Level.OK, f"{address} is this node's", "")
        other = replace(
            subject, config=subject.config.model_copy(update={"node": subject.config.node.model_copy(update={"name": "n2"})})
        )
        found = (await check_ports(other, SILENT))[1]
        assert (found.level, f"{address} is taken by node n1" in found.found) == (Level.PROBLEM, True)


async def test_metrics_port_of_a_stranger_is_a_problem(taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is given up in time."""
    monkeypatch.setattr("kvnode.doctor.ports.METRICS_MAX", 0.1)
    _, found = await check_ports(subject_at(free_address(), tmp_path, metrics__listen=taken), SILENT)
    assert found.level == Level.PROBLEM
    assert f"process {os.getpid()}" in found.found


async def test_metrics_port_that_is_free_or_any_is_fine(tmp_path: Path) -> None:
    """Port 0 is always free."""
    for listen in (free_address(), "127.0.0.1:0"):
        _, found = await check_ports(subject_at(free_address(), tmp_path, metrics__listen=listen), SILENT)
        assert found.level == Level.OK


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100000A", "10.0.0.1"),
        ("00000000000000000000000000000000", "::"),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the examples are a little-endian kernel's")
def test_address_of_the_kernels_table_is_decoded(text: str, address: str) -> None:
    """Both families, and an IPv4 address in an IPv6 socket."""
    assert decode_address(text) == address


def test_address_of_all_interfaces_is_asked_at_the_loopback() -> None:
    """Nobody can connect to 0.0.0.0 everywhere."""
    asked = [reachable(listen) for listen in ("0.0.0.0:1", "[::]:2", "10.0.0.1:3", "[fd00::1]:4")]
    assert asked == ["127.0.0.1:1", "[::1]:2", "10.0.0.1:3", "[fd00::1]:4"]
