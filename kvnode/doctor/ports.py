"""The ports that the node listens on: free, its own already, or somebody else's.

Owns how that is found out: by binding, without ever listening, so that nobody can connect to the doctor and a node that starts
meanwhile finds the port free (both set SO_REUSEADDR).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from kvnode.config import Config
from kvnode.doctor.asking import Answer, Silence
from kvnode.doctor.finding import Finding, ok, problem, warning
from kvnode.doctor.peers import is_member
from kvnode.doctor.subject import Subject
from kvnode.types import Seconds
from kvwire import addresses

PORT, METRICS_PORT = "port", "metrics port"
METRICS_MAX: Seconds = 1.0
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_LISTENS = "0A"
"""A socket's state in /proc/net/tcp (include/net/tcp_states.h)."""


async def check_ports(subject: Subject, answer: Answer | Silence) -> list[Finding]:
    """`node.listen`, where `answer` is what is said now, and `metrics.listen` where it is set."""
    findings = [check_port(subject, answer)]
    if subject.config.metrics.listen:
        findings.append(await _check_metrics_port(subject))
    return findings


def check_port(subject: Subject, answer: Answer | Silence) -> Finding:
    """Whether the node can listen on its port, or does; `answer` is what is said there."""
    listen = subject.config.node.listen
    error = bind(listen)
    if error is None:
        if subject.pid:
            found = (
                f"{listen} is free, although process {subject.pid} has the data directory: it is starting, or listens elsewhere"
            )
            return warning(PORT, found, "See its log; restart it if the configuration was changed")
        return _free(subject, PORT, listen, "node.listen")
    if error.errno != errno.EADDRINUSE:
        return _unusable(PORT, listen, "node.listen", error)
    return judge_holder(subject.config, answer, holder_of_port(listen))


def judge_holder(config: Config, answer: Answer | Silence, process: str) -> Finding:
    """Who has the node's port, from what is said there; `process` may name who listens."""
    listen, by = config.node.listen, f" by {process}" if process else ""
    advice = "Stop it, or give this node another port (node.listen, and cluster.members on all nodes)"
    if isinstance(answer, Silence):
        return problem(PORT, f"{listen} is taken{by}, and no kvnode answers there: {answer.reason}", advice)
    if not is_member(config, config.node.name, answer):
        return problem(PORT, f"{listen} is taken{by}: node {answer.name} of cluster {answer.cluster_id}", advice)
    return ok(PORT, f"{listen} is this node's: kvnode {answer.version}, up for {_duration(answer.uptime)}")


async def _check_metrics_port(subject: Subject) -> Finding:
    listen = subject.config.metrics.listen
    if listen.endswith(":0"):
        return ok(METRICS_PORT, f"{listen}: any that is free; the log says which")
    error = bind(listen)
    if error is None:
        return _free(subject, METRICS_PORT, listen, "metrics.listen")
    if error.errno != errno.EADDRINUSE:
        return _unusable(METRICS_PORT, listen, "metrics.listen", error)
    found = await metrics_of(reachable(listen))
    if found == subject.config.node.name:
        return ok(METRICS_PORT, f"{listen} is this node's")
    process = holder_of_port(listen)
    who = f" by node {found}" if found else f" by {process}" if process else " by somebody else"
    return problem(METRICS_PORT, f"{listen} is taken{who}", "Stop it, or set metrics.listen to another port")


def _free(subject: Subject, name: str, listen: str, setting: str) -> Finding:
    port, lowest = int(listen.rpartition(":")[2]), _lowest_unprivileged()
    if port < lowest and subject.uid != 0:
        found = f"{listen} is free, but below {lowest}: only root may listen there, and the node runs as {subject.user}"
        return problem(name, found, f"Set {setting} to a port from {lowest} on, or give the unit CAP_NET_BIND_SERVICE")
    return ok(name, f"{listen} is free")


def _unusable(name: str, listen: str, setting: str, error: OSError) -> Finding:
    if error.errno == errno.EADDRNOTAVAIL:
        found = f"{listen} is no address of this host, now"
        return problem(name, found, f"Correct {setting}, or bring the network up before the node")
    return problem(name, f"nobody can listen on {listen}: {error.strerror or error}", f"Correct {setting}")


def bind(listen: str) -> OSError | None:
    """What keeps a node from listening there; None: nothing."""
    try:
        for sock in addresses.listen(addresses.parse(listen), reuse_port=False):
            sock.close()
    except OSError as error:
        return error
    return None


def reachable(listen: str) -> str:
    """Where a listener of this host is reached from this host."""
    host, _, port = listen.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


async def metrics_of(address: str) -> str:
    """The name of the node whose metrics are served at "host:port"; empty: no node's."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(METRICS_MAX):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
                page = await reader.read(4096)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""
    match = re.search(rb"<title>kvnode ([A-Za-z0-9_.-]{1,63})</title>", page)
    return match[1].decode() if match else ""


def holder_of_port(listen: str, proc: Path = Path("/proc")) -> str:
    """Who listens on the port, as "process 17 (nginx)"; empty where this user may not know."""
    wanted = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listening(proc / "net" / name, listen)}
    for entry in sorted(proc.glob("[0-9]*")) if wanted else ():
        try:
            if any(os.readlink(descriptor) in wanted for descriptor in (entry / "fd").iterdir()):
                return f"process {entry.name} ({(entry / 'comm').read_text().strip()})"
        except OSError:
            continue
    return ""


def _listening(table: Path, listen: str) -> Iterator[str]:
    """Inodes of the sockets in a table of the kernel that keep others from listening there."""
    host, _, port = listen.rpartition(":")
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for words in (line.split() for line in lines):
        address, _, number = words[1].rpartition(":")
        if words[3] == _LISTENS and int(number, 16) == int(port) and _overlap(host.strip("[]"), decode_address(address)):
            yield words[9]


def decode_address(text: str) -> str:
    """An address from the kernel's table: words of 32 bits, each in this host's order of bytes."""
    words = (int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(text) == 8 else socket.AF_INET6, b"".join(words)).removeprefix("::ffff:")


def _overlap(wanted: str, held: str) -> bool:
    """Whether one listener is in the way of the other; a name may be any address."""
    is_name = not re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", wanted)
    return is_name or wanted == held or bool({wanted, held} & {"0.0.0.0", "::"})


def _lowest_unprivileged() -> int:
    try:
        return int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def _duration(seconds: Seconds) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
