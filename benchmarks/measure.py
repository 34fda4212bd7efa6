"""What the benchmarks share: a cluster in a directory of its own, what its processes cost, and how figures are shown.

Owns no workload. Processes are ended by their ids, through `Playground`; directories are removed in the end.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kvctl.playground import Playground, free_base_port

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def cluster(nodes: int = 3, shards: int = 8, settings: Mapping[str, Any] | None = None) -> Iterator[Playground]:
    """A running cluster on loopback and on the disk of the temporary directory."""
    directory = Path(tempfile.mkdtemp(prefix="kvnode-bench-"))
    made = Playground.create(directory / "cluster", nodes, free_base_port(nodes), shards=shards, settings=settings)
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(directory)


class Usage(NamedTuple):
    """What processes have used since they started."""

    at_s: float
    cpu_s: dict[str, float]

    def cores_since(self, before: Usage) -> dict[str, float]:
        """Cores used by each process between two moments: 0.1 is a tenth of a core."""
        seconds = self.at_s - before.at_s
        return {name: (cpu - before.cpu_s[name]) / seconds for name, cpu in self.cpu_s.items() if name in before.cpu_s}


def usage(playground: Playground) -> Usage:
    """User and system time of every node's process, from /proc."""
    cpu = {}
    for node in playground.nodes:
        if node.pid is not None:
            fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
            cpu[node.name] = (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return Usage(time.monotonic(), cpu)


def memory_mib(playground: Playground) -> dict[str, dict[str, float]]:
    """Of every node's process, in MiB: what is resident, and of that what is private memory and what is mapped file."""
    found = {}
    for node in playground.nodes:
        if node.pid is not None:
            lines = dict(
                line.split(":", 1) for line in Path(f"/proc/{node.pid}/status").read_text().splitlines() if ":" in line
            )
            found[node.name] = {
                what: round(int(lines[field].split()[0]) / 1024, 1)
                for what, field in (("resident", "VmRSS"), ("private", "RssAnon"), ("mapped", "RssFile"), ("peak", "VmHWM"))
            }
    return found


def disk_mib(playground: Playground) -> dict[str, float]:
    """Blocks of every node's data directory, in MiB."""
    return {
        node.name: round(sum(f.stat().st_blocks for f in node.data_path.rglob("*") if f.is_file()) / 2048, 1)
        for node in playground.nodes
    }


def machine() -> str:
    """Where the figures are from."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {load}"


def summary(name: str, values: Sequence[float], unit: str) -> str:
    """Median, average and extremes in a line."""
    return (
        f"{name}: median {statistics.median(values):.3f} {unit}, average {statistics.fmean(values):.3f}, "
        f"min {min(values):.3f}, max {max(values):.3f} ({len(values)} values)"
    )


def verdict(claims: Mapping[str, bool]) -> int:
    """Print which bounds hold; the exit code."""
    for claim, holds in claims.items():
        print(f"{'holds ' if holds else 'BROKEN'}  {claim}")
    sys.stdout.flush()
    return 0 if all(claims.values()) else 1
