"""A configuration read again while the node runs: what can change then is changed, the rest is said to need a restart.

Owns which settings can. Those that may: nothing was promised on their strength, and one place reads them each time. Never
applies half of a file: one that cannot be used as a whole changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from kvnode.config import Config
from kvnode.node import Node
from kvnode.observe.logging import set_level
from kvnode.storage.disk import RealDisk


class Running(NamedTuple):
    """What of a process a new configuration reaches."""

    node: Node
    disk: RealDisk


def _tracing(running: Running, config: Config) -> None:
    running.node.observer.tracing.settings = config.tracing
    running.node.observer.recorder.keep(config.tracing)


def _quota(running: Running, config: Config) -> None:
    running.disk.quota_bytes = config.storage.quota_bytes


def _flushes(running: Running, config: Config) -> None:
    flusher, storage = running.node.flusher, config.storage
    flusher.memtable_size_bytes, flusher.interval = storage.memtable_size_bytes, storage.flush_interval_s


RELOADABLE: Mapping[str, Callable[[Running, Config], None]] = {
    "log.level": lambda running, config: set_level(config.log.level),
    "storage.quota_bytes": _quota,
    "storage.memtable_size_bytes": _flushes,
    "storage.flush_interval_s": _flushes,
    "tracing.sample_ratio": _tracing,
    "tracing.slow_ms": _tracing,
    "tracing.kept_per_second_max": _tracing,
}
"""Settings that can change while the node runs, and what makes a new value count."""


class Change(NamedTuple):
    """A setting that the file now says otherwise than the node has it."""

    setting: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.setting} = {self.new!r} (was {self.old!r})"


def changes(running: Config, wanted: Config) -> list[Change]:
    """What differs, by setting, in the order of the sections."""
    before, after = running.model_dump(), wanted.model_dump()  # (in which secrets are told apart, and not shown)
    return [
        Change(f"{section}.{name}", old, after[section][name])
        for section, values in before.items()
        for name, old in values.items()
        if after[section][name] != old
    ]


def apply(running: Running, wanted: Config) -> tuple[list[Change], list[Change]]:
    """Applies what can be applied; answers that, and what takes a restart."""
    node = running.node
    applied: list[Change] = []
    waiting: list[Change] = []
    for change in changes(node.config, wanted):
        mixed = _with(node.config, wanted, change.setting)
        if change.setting in RELOADABLE and _is_valid(mixed):
            RELOADABLE[change.setting](running, wanted)
            node.config = mixed
            applied.append(change)
        else:
            waiting.append(change)
    return applied, waiting


def _is_valid(config: Config) -> bool:
    """Whether settings fit together: a new one may be meant for others that take a restart, as a quota for smaller segments."""
    try:
        Config.model_validate(config.model_dump())
    except ValidationError:
        return False
    return True


def _with(config: Config, wanted: Config, setting: str) -> Config:
    """`config` with one setting as `wanted` has it: the next reload compares with that."""
    name, _, field = setting.partition(".")
    section = getattr(config, name).model_copy(update={field: getattr(getattr(wanted, name), field)})
    return config.model_copy(update={name: section})
