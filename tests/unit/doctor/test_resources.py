"""Open files and memory against what a node may need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvnode.doctor.finding import Level
from kvnode.doctor.resources import (
    check_files,
    check_memory,
    files_needed,
    judge_files,
    judge_memory,
    memory_needed,
    soft_limit,
)
from tests.unit.doctor.subjects import make_config, make_subject

MIB = 1024**2
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             128000               128000               processes
Max open files            {}                1048576              files
"""


def fake_proc(path: Path, pid: str, limits: str = "1024", available_kib: int = 4 * 1024 * 1024, group: str = "0::/") -> Path:
    """The files of /proc that are read, in the kernel's form."""
    (path / pid).mkdir(parents=True)
    (path / "meminfo").write_text(f"MemTotal:  8000000 kB\nMemAvailable: {available_kib} kB\n")
    (path / pid / "limits").write_text(LIMITS.format(limits))
    (path / pid / "status").write_text("Name:\tkvnode\nVmRSS:\t  102400 kB\n")
    (path / pid / "cgroup").write_text(f"{group}\n")
    return path


def test_files_needed_follow_from_connections_and_members() -> None:
    """Without clients, and with all that a node admits, scrapers too."""
    assert files_needed(make_config()) == (128 + 2 * 4, 128 + 2 * 4 + 8192)
    assert files_needed(make_config(metrics__listen="127.0.0.1:0"))[1] == 128 + 2 * 4 + 8192 + 64


@pytest.mark.parametrize(
    ("limit", "level"),
    [(100, Level.PROBLEM), (135, Level.PROBLEM), (1024, Level.WARNING), (65536, Level.OK), (-1, Level.OK)],
)
def test_limit_of_open_files_is_judged(limit: int, level: Level) -> None:
    """Too few for the node alone, for all clients, or enough; -1 is no limit."""
    assert judge_files(limit, "in this shell", *files_needed(make_config())).level == level


def test_limit_of_a_node_that_runs_is_its_own(tmp_path: Path) -> None:
    """Not that of the shell that asks; the real list of this process has the same form."""
    (found,) = check_files(make_subject(tmp_path, pid=17), fake_proc(tmp_path / "proc", "17"))
    assert (found.level, "at most 1024 (of process 17)" in found.found) == (Level.WARNING, True)
    (own,) = check_files(make_subject(tmp_path, pid=os.getpid()))
    assert f"(of process {os.getpid()})" in own.found
    assert soft_limit(LIMITS.format("unlimited")) == -1


def test_limit_of_a_process_that_may_not_be_read_is_the_shells(tmp_path: Path) -> None:
    """And that is said."""
    (found,) = check_files(make_subject(tmp_path, pid=17), tmp_path)
    assert "in this shell; those of process 17 may not be read" in found.found


def test_memory_needed_follows_from_tables_shards_and_queues() -> None:
    """All eight shards are on each of three nodes; on one of six nodes, half of them or so."""
    least, most = memory_needed(make_config())
    assert (least, most) == ((128 + 32) * MIB, (128 + 32 + 8 * 16 + 64) * MIB)
    assert memory_needed(make_config(cluster__replication_factor="1"))[1] < most


@pytest.mark.parametrize(("available", "level"), [(100, Level.PROBLEM), (200, Level.WARNING), (400, Level.OK)])
def test_memory_available_is_judged(available: int, level: Level) -> None:
    """Not enough for the tables, not enough for the worst, enough."""
    assert judge_memory(available * MIB, "of this host", *memory_needed(make_config())).level == level


def test_memory_that_the_node_has_counts_as_available(tmp_path: Path) -> None:
    """A node that runs has taken its share already."""
    proc = fake_proc(tmp_path / "proc", "17", available_kib=300 * 1024)
    (found,) = check_memory(make_subject(tmp_path, pid=17), proc, tmp_path)
    assert found.found.startswith("400 MiB of this host available")


def test_memory_of_a_control_group_bounds_what_is_available(tmp_path: Path) -> None:
    """The narrowest above the process counts; what the page cache has can be taken."""
    for name, limit, used in (("system.slice", "max", 0), ("system.slice/kvnode@n1.service", str(150 * MIB), 50 * MIB)):
        group = tmp_path / "cgroup" / name
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used + 30 * MIB}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\nfile 7\n")
    proc = fake_proc(tmp_path / "proc", "17", group="0::/system.slice/kvnode@n1.service")
    (found,) = check_memory(make_subject(tmp_path, pid=17), proc, tmp_path / "cgroup")
    assert found.found.startswith("200 MiB of control group /system.slice/kvnode@n1.service available")
    assert found.level == Level.WARNING


def test_memory_of_this_host_can_be_read(tmp_path: Path) -> None:
    """The real files have the form that is expected."""
    (found,) = check_memory(make_subject(tmp_path))
    assert found.level != Level.SKIPPED
    (unknown,) = check_memory(make_subject(tmp_path), tmp_path)
    assert unknown.level == Level.SKIPPED
