"""How long the disk takes to sync: measured in a file without a name, and judged."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from kvnode.doctor import sync_time
from kvnode.doctor.finding import Level
from kvnode.doctor.sync_time import check_sync_time, check_sync_time_bounded, judge, measure, percentile
from tests.unit.doctor.subjects import make_subject


@pytest.mark.parametrize(
    ("durations", "level"),
    [
        ([0.001] * 99 + [0.5], Level.OK),
        ([0.001] * 98 + [0.011] * 2, Level.WARNING),
        ([0.020] * 100, Level.WARNING),
        ([0.001] * 98 + [0.2] * 2, Level.PROBLEM),
        ([0.2] * 10, Level.PROBLEM),
        ([0.050] * 19, Level.PROBLEM),
        ([0.050] * 40, Level.WARNING),
    ],
)
def test_syncs_by_their_99th_percentile_are_judged(durations: Sequence[float], level: Level) -> None:
    """One outlier in a hundred is forgiven; so few syncs in the whole time are not."""
    finding = judge(durations)
    assert finding.level == level
    assert f"{len(durations)} writes of 4 KiB" in finding.found


def test_percentile_of_a_few_values_is_one_of_them() -> None:
    """Nearest rank, never between two values."""
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.1, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert percentile(list(range(1, 101)), 0.99) == 99


def test_probe_leaves_no_file_behind_and_makes_as_many_syncs_as_said(tmp_path: Path) -> None:
    """Where the directory is not there yet, the one above is measured."""
    (found,) = check_sync_time(make_subject(tmp_path / "n1"))
    assert "writes of 4 KiB: p50 " in found.found
    assert not list(tmp_path.iterdir())


def test_probe_that_is_interrupted_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while it runs does its file have a name, so nothing can leave it there."""
    seen: list[list[str]] = []

    def interrupt(_: int) -> None:
        seen.append(os.listdir(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdatasync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(str(tmp_path))
    assert seen == [[]]
    assert os.listdir(tmp_path) == []


def test_probe_of_a_slow_disk_ends_in_time(tmp_path: Path) -> None:
    """With the syncs that were made by then."""
    ticks = count(0)
    durations = measure(str(tmp_path), lambda: next(ticks) * 0.3)
    assert len(durations) == 4
    assert durations == pytest.approx([0.3] * 4)


def test_probe_where_nobody_may_write_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, and who could."""

    def refuse(_: str) -> list[float]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sync_time, "measure", refuse)
    (found,) = check_sync_time(make_subject(tmp_path))
    assert found.level == Level.SKIPPED
    assert f"cannot write a probe file in {tmp_path}: Permission denied" in found.found


async def test_probe_of_a_disk_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor still answers, and the thread that hangs keeps no process from ending."""
    hangs, seen = threading.Event(), []

    def hang(_: str) -> list[float]:
        seen.append(threading.current_thread().daemon)
        hangs.wait()
        return [0.001]

    monkeypatch.setattr(sync_time, "measure", hang)
    monkeypatch.setattr(sync_time, "HANGS", 0.05)
    try:
        (found,) = await check_sync_time_bounded(make_subject(tmp_path))
    finally:
        hangs.set()
    assert found.level == Level.PROBLEM
    assert "The disk hangs" in found.advice
    assert seen == [True]
