"""SIGHUP: what takes effect, and what is said to need a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from kvnode import reload
from kvnode.config import Config
from kvnode.storage.disk import RealDisk
from tests.unit.observe.whole_nodes import WholeNodes, on_whole_nodes


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    structlog.reset_defaults()


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """`config` with other values, validated as a whole."""
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section].update(values)
    return Config.model_validate(tree)


def running(nodes: WholeNodes) -> reload.Running:
    """One node, on a disk that has a quota."""
    return reload.Running(nodes.nodes["n1"], RealDisk.__new__(RealDisk))


@on_whole_nodes
async def test_reload_applies_each_setting_that_can_be(nodes: WholeNodes) -> None:
    """Every one of `RELOADABLE` is changed, and counts where it is read."""
    target = running(nodes)
    node = target.node
    wanted = changed(
        node.config,
        log={"level": "error"},
        storage={"quota_bytes": 1 << 40, "memtable_size_bytes": 1 << 20, "flush_interval_s": 7.0},
        tracing={"sample_ratio": 0.5, "slow_ms": 3.0, "kept_per_second_max": 77},
    )
    applied, waiting = reload.apply(target, wanted)
    assert {change.setting for change in applied} == set(reload.RELOADABLE)
    assert waiting == []
    assert target.disk.quota_bytes == 1 << 40
    assert (node.flusher.memtable_size_bytes, node.flusher.interval) == (1 << 20, 7.0)
    assert node.observer.tracing.settings.sample_ratio == 0.5
    assert logging.getLogger().level == logging.ERROR
    assert reload.apply(target, wanted) == ([], [])


@on_whole_nodes
async def test_reload_leaves_what_fits_only_others_that_take_a_restart(nodes: WholeNodes) -> None:
    """A quota for smaller segments is less than two of the present ones: the node would refuse writes until the restart."""
    target = running(nodes)
    target.disk.quota_bytes = before = target.node.config.storage.quota_bytes
    wanted = changed(
        target.node.config,
        storage={"ballast_size_bytes": 0, "segment_size_bytes": 1 << 16, "quota_bytes": 1 << 17, "flush_interval_s": 7.0},
    )
    applied, waiting = reload.apply(target, wanted)
    assert [change.setting for change in applied] == ["storage.flush_interval_s"]
    assert "storage.quota_bytes" in [change.setting for change in waiting]
    assert target.disk.quota_bytes == target.node.config.storage.quota_bytes == before


@on_whole_nodes
async def test_reload_names_what_takes_a_restart_each_time(nodes: WholeNodes) -> None:
    """An election's time-outs were promised to the others: the node keeps its own, and says so again at the next reload."""
    target = running(nodes)
    before = target.node.config.election
    wanted = changed(target.node.config, election={"timeout_ms_min": 1234}, log={"level": "warning"})
    applied, waiting = reload.apply(target, wanted)
    assert [str(change) for change in applied] == ["log.level = 'warning' (was 'info')"]
    assert [str(change) for change in waiting] == ["election.timeout_ms_min = 1234 (was 800)"]
    assert target.node.config.election == before
    assert [change.setting for change in reload.apply(target, wanted)[1]] == ["election.timeout_ms_min"]


@on_whole_nodes
async def test_reload_of_a_secret_notices_and_does_not_show_it(nodes: WholeNodes) -> None:
    """A token that was exchanged: it takes a restart, and its text stands in no log."""
    target = running(nodes)
    wanted = changed(target.node.config, tracing={"otlp_headers": "authorization=Bearer hidden"})
    _, waiting = reload.apply(target, wanted)
    assert [change.setting for change in waiting] == ["tracing.otlp_headers"]
    assert "hidden" not in str(waiting[0])


def test_reloadable_settings_exist(tmp_path: Path) -> None:
    """A setting that was renamed would never be applied again, silently."""
    config = Config.load(None, {}, {}, "local")
    for setting in reload.RELOADABLE:
        section, _, name = setting.partition(".")
        assert name in type(getattr(config, section)).model_fields, setting
