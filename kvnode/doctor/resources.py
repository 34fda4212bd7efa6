"""What the process may use: open files and memory, against what its limits let it need.

Owns the formulas. Of a node that runs it reads the process's own limits, of one that does not the limits of whoever asks, which
a service manager sets for itself: that is said.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import kvwire.limits
from kvnode import limits
from kvnode.config import Config
from kvnode.config_fields import MIB
from kvnode.doctor.finding import Finding, ok, problem, size_text, skipped, warning
from kvnode.doctor.subject import Subject
from kvnode.routing.shard_map import make_shard_map

FILES, MEMORY = "open files", "memory"
OWN_FILES = 128
"""Files of a node besides connections: the log's segments, the store, snapshots, the event loops; with room to spare."""
PEER_CONNECTIONS = 4
"""To and from each peer, heartbeats on connections of their own."""
PROCESS_SIZE_BYTES = 128 * MIB
"""Of a node without data: the interpreter, its libraries, buffers of connections."""


# ---- open files -------------------------------------------------------------------------------------------------------


def files_needed(config: Config) -> tuple[int, int]:
    """Descriptors that a node cannot do without, and those with as many clients as it admits."""
    least = OWN_FILES + PEER_CONNECTIONS * (len(config.cluster.members) - 1)
    scrapers = limits.METRICS_CONNECTIONS_MAX if config.metrics.listen else 0
    return least, least + kvwire.limits.CONNECTIONS_MAX + scrapers


def check_files(subject: Subject, proc: Path = Path("/proc")) -> list[Finding]:
    """The limit of open files against what the node may need."""
    limit, whose = None, "in this shell; a service has its own, LimitNOFILE="
    if subject.pid:
        try:
            limit, whose = soft_limit((proc / str(subject.pid) / "limits").read_text()), f"of process {subject.pid}"
        except OSError:
            whose = f"in this shell; those of process {subject.pid} may not be read by this user"
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [judge_files(limit, whose, *files_needed(subject.config))]


def judge_files(limit: int, whose: str, least: int, most: int) -> Finding:
    """A node that cannot open the next file of its log stops; one that cannot take a connection refuses a client."""
    shown = "unlimited" if limit < 0 else str(limit)
    advice = "Set LimitNOFILE=65536 in the unit, or `ulimit -n 65536` before the node starts"
    if 0 <= limit < least:
        found = f"at most {shown} ({whose}); the node alone needs {least}, and stops when it cannot open its log's next file"
        return problem(FILES, found, advice)
    if 0 <= limit < most:
        found = f"at most {shown} ({whose}); with all the connections that it admits a node has up to {most} open"
        return warning(FILES, found, advice)
    return ok(FILES, f"at most {shown} ({whose}), enough for {most}")


def soft_limit(text: str) -> int:
    """The soft limit of open files from the text of /proc/PID/limits; -1: none."""
    match = re.search(r"^Max open files\s+(\S+)", text, re.MULTILINE)
    if match is None:
        raise OSError("the kernel's list of limits has no open files")
    return -1 if match[1] == "unlimited" else int(match[1])


# ---- memory -----------------------------------------------------------------------------------------------------------


def memory_needed(config: Config) -> tuple[int, int]:
    """Bytes for an idle node whose tables are full, and for one whose logs' tails and queues are full, too."""
    placed = make_shard_map(config.cluster.members, config.cluster.shards, config.cluster.replication_factor).replicas
    shards = sum(config.node.name in replicas for replicas in placed)
    least = PROCESS_SIZE_BYTES + 2 * config.storage.memtable_size_bytes
    return least, least + shards * limits.LOG_TAIL_SIZE_BYTES_MAX + limits.PROPOSED_SIZE_BYTES_MAX


def check_memory(subject: Subject, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Finding]:
    """What is available, here and in the control group, against what the node may need; what it has already counts, too."""
    least, most = memory_needed(subject.config)
    try:
        available, where = _available(proc), "of this host"
        own = _resident(proc, subject.pid)
        for room, group in _rooms(proc, cgroups, subject.pid):
            if room < available:
                available, where = room, f"of control group {group}"
    except (OSError, ValueError) as error:
        return [skipped(MEMORY, f"cannot be read: {error}")]
    return [judge_memory(available + own, where, least, most)]


def judge_memory(available: int, where: str, least: int, most: int) -> Finding:
    """A node that the kernel kills for want of memory loses nothing; its shards' leaders move."""
    what = f"{size_text(available)} {where} available"
    advice = "Add memory, or lower storage.memtable_size_bytes and the number of shards on this node"
    if available < least:
        return problem(MEMORY, f"{what}; full memory tables alone take the node to {size_text(least)}", advice)
    if available < most:
        found = f"{what}; with a lagging follower in every shard a node grows to {size_text(most)}"
        return warning(MEMORY, found, advice)
    return ok(MEMORY, f"{what}, enough for {size_text(most)}")


def _available(proc: Path) -> int:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    if match is None:
        raise ValueError("/proc/meminfo has no MemAvailable")
    return int(match[1]) * 1024


def _resident(proc: Path, pid: int) -> int:
    if not pid:
        return 0
    match = re.search(r"^VmRSS:\s+(\d+) kB", (proc / str(pid) / "status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _rooms(proc: Path, cgroups: Path, pid: int) -> Iterator[tuple[int, str]]:
    """What each control group above the process (or above this one) leaves; version 2 only."""
    lines = (proc / (str(pid) if pid else "self") / "cgroup").read_text().splitlines()
    group = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    parts = [part for part in group.split("/") if part]
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        try:
            limit = (cgroups / name / "memory.max").read_text().strip()
            if limit != "max":
                yield max(0, int(limit) - _in_use(cgroups / name)), f"/{name}"
        except OSError:
            continue


def _in_use(group: Path) -> int:
    """What a control group cannot give back: its memory without the pages of files."""
    files = re.findall(r"^(?:in)?active_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    return int((group / "memory.current").read_text()) - sum(map(int, files))
