"""What a playground remembers on disk: `cluster.json`, and each node's configuration file.

Owns the layout of a playground's directory and its formats. Starts, signals and asks nothing. `cluster.json` is replaced
atomically and only under the directory's lock, so that two kvctl at once cannot both start a node.

Layout: D/cluster.json, D/.lock, and for each node D/n1/{kvnode.toml, log.jsonl, data/}.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kvctl.process import ProcessId

FORMAT = 1
HOST = "127.0.0.1"
NODES_MAX = 9
REPLICATION_FACTOR_MAX = 3
"""Copies of each shard, where there are so many nodes and the settings say nothing else."""
OWN_SETTINGS = (
    *("node.name", "node.listen", "node.data_dir", "node.transport"),
    *("cluster.id", "cluster.members", "cluster.shards"),
)
"""What the playground decides by itself; not open to additional settings."""


LAST_WORDS_SIZE_BYTES_MAX = 1 << 20
_LEVELS_OF_CAUSES = tuple(re.compile(rf'"level": ?"{level}"|\[{level} *\]') for level in ("critical", "error"))
"""A line of the log that says why, in both formats; the worst first."""


class PlaygroundError(Exception):
    """What went wrong with a playground, with which node, and what to do."""

    def __init__(self, message: str, *, hint: str = "", log_tail: str = "", usage: bool = False) -> None:
        super().__init__(message)
        self.message, self.hint, self.log_tail = message, hint, log_tail
        self.usage = usage
        """Whether the request itself was wrong."""


@dataclass
class NodeRecord:
    """A node, and the process that was last started for it; None after a stop or a kill."""

    address: str
    process: ProcessId | None = None
    config_digest: str = ""
    """Of the configuration that the playground wrote last: a file edited since then is left alone until there is another."""
    log_offset: int = 0
    """The log's size in bytes when the process was started: what follows are its own words."""


@dataclass
class ClusterRecord:
    """The contents of `cluster.json`."""

    cluster_id: str
    base_port: int
    shards: int
    transport: str
    """Empty: what kvnode takes by itself."""
    nodes: dict[str, NodeRecord]
    settings: dict[str, Any] = field(default_factory=dict)
    """Additional configuration: "section.field" -> value."""
    command: list[str] | None = None
    """What starts a daemon, in place of the installed kvnode; `{config}` stands for the configuration file's path."""


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as "section.field" -> value; flat ones stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def parse_setting(text: str) -> tuple[str, Any]:
    """Read "section.field=value"; the value as in TOML, or else as plain text; None, if there is none, takes the setting
    back. Raises PlaygroundError.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or name.count(".") < 1 or not all(name.split(".")):
        raise PlaygroundError(
            f"--set {text}: expected section.field=value", hint="for example --set election.timeout_ms_min=500", usage=True
        )
    if not value.strip():
        return name, None
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what the playground decides by itself, and what TOML cannot say. Raises PlaygroundError."""
    for name, value in settings.items():
        if any(name == own or name.startswith(own + ".") for own in OWN_SETTINGS):
            raise PlaygroundError(
                f"setting {name}: the playground decides this itself", hint="see kvctl cluster up --help", usage=True
            )
        if name.count(".") != 1:
            raise PlaygroundError(f"setting {name}: expected section.field", usage=True)
        if value is not None:
            _toml_value(name, value)


def _toml_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)  # JSON's escapes are a subset of a TOML basic string's
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(name, item) for item in value) + "]"
    raise PlaygroundError(f"setting {name}: a {type(value).__name__} cannot be written as TOML")


def unusable(directory: Path, error: OSError) -> PlaygroundError:
    """The directory cannot hold a playground."""
    inside = next((path for path in (directory, *directory.parents) if os.path.exists(path)), directory)
    why = f"{inside} is not a directory" if not os.path.isdir(inside) else (error.strerror or str(error)).lower()
    return PlaygroundError(f"no playground can be in {directory}: {why}", hint="name another directory: --dir DIR")


def record_of(record: ClusterRecord, name: str) -> NodeRecord:
    """A node's record. Raises PlaygroundError if there is no such node."""
    if name not in record.nodes:
        raise PlaygroundError(f"there is no node {name}", hint=f"the nodes are {', '.join(record.nodes)}")
    return record.nodes[name]


def new_record(nodes: int, base_port: int, shards: int) -> ClusterRecord:
    """A new cluster: nodes n1, n2, ... on consecutive ports, with an identity of its own. Raises PlaygroundError."""
    if not 1 <= nodes <= NODES_MAX:
        raise PlaygroundError(f"{nodes} nodes: a playground has 1 to {NODES_MAX}")
    if not 1 <= base_port <= 65535 - nodes + 1:
        raise PlaygroundError(f"base port {base_port}: {nodes} nodes need ports between 1 and 65535")
    addresses = {f"n{i}": NodeRecord(f"{HOST}:{base_port + i - 1}") for i in range(1, nodes + 1)}
    return ClusterRecord(uuid.uuid4().hex, base_port, shards, "", addresses)


def check_same(directory: Path, record: ClusterRecord, wanted: Mapping[str, int | None]) -> None:
    """Refuse to change what a cluster cannot change. Raises PlaygroundError."""
    there = {"nodes": len(record.nodes), "base_port": record.base_port, "shards": record.shards}
    for fact, value in wanted.items():
        if value is not None and value != there[fact]:
            raise PlaygroundError(
                f"{directory} holds a cluster with {fact.replace('_', ' ')} {there[fact]}, not {value}",
                hint=f"use another --dir, or remove this one: kvctl cluster down --purge --dir {directory}",
            )


class PlaygroundFiles:
    """The directory of one playground."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record_path = directory / "cluster.json"

    def node_directory(self, name: str) -> Path:
        """Everything of one node."""
        return self.directory / name

    def config_path(self, name: str) -> Path:
        """The node's configuration file."""
        return self.directory / name / "kvnode.toml"

    def log_path(self, name: str) -> Path:
        """What the node's process wrote to its standard output and error output."""
        return self.directory / name / "log.jsonl"

    def traces_path(self, name: str) -> Path:
        """Where a node's spans go, for `kvctl trace`."""
        return self.node_directory(name) / "traces.jsonl"

    def data_path(self, name: str) -> Path:
        """The node's data directory."""
        return self.directory / name / "data"

    def exists(self) -> bool:
        """Whether there is a playground here."""
        return self.record_path.is_file()

    def load(self) -> ClusterRecord:
        """Read `cluster.json`. Raises PlaygroundError if there is none, or it is not one of ours."""
        try:
            raw = json.loads(self.record_path.read_text())
            if raw["format"] != FORMAT:
                raise PlaygroundError(
                    f"{self.record_path} has format {raw['format']}, this kvctl reads {FORMAT}",
                    hint="use the kvctl that made it, or start a new playground in another --dir",
                )
            nodes = {
                name: NodeRecord(**{**node, "process": ProcessId(**node["process"]) if node["process"] else None})
                for name, node in raw["nodes"].items()
            }
            return ClusterRecord(**{**{key: value for key, value in raw.items() if key != "format"}, "nodes": nodes})
        except FileNotFoundError:
            raise PlaygroundError(
                f"there is no playground in {self.directory}", hint=f"start one: kvctl cluster up --dir {self.directory}"
            ) from None
        except OSError as error:
            raise unusable(self.directory, error) from None
        except (ValueError, KeyError, TypeError) as error:
            raise PlaygroundError(
                f"{self.record_path} is not a playground's record: {error}", hint="start a new playground in another --dir"
            ) from None

    def save(self, record: ClusterRecord) -> None:
        """Replace `cluster.json` atomically."""
        draft = self.record_path.with_suffix(".json.new")
        draft.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=2) + "\n")
        os.replace(draft, self.record_path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock; another kvctl waits. Raises PlaygroundError if nothing can be written there."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / ".lock").open("a")
        except OSError as error:
            raise unusable(self.directory, error) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def abandon(self) -> None:
        """Leave a directory without a playground; it is removed if nothing else is in it."""
        (self.directory / ".lock").unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    @contextmanager
    def changing(self) -> Iterator[ClusterRecord]:
        """The record, under the lock; saved afterwards, also when the block fails (what was started is remembered)."""
        with self.locked():
            record = self.load()
            try:
                yield record
            finally:
                self.save(record)

    def write_config(self, record: ClusterRecord, name: str) -> None:
        """Write a node's configuration file, unless it is there and was written from the same record: then it may hold
        somebody's changes, which stay. The record remembers what was written.
        """
        text = self.config_text(record, name)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if record.nodes[name].config_digest == digest and self.config_path(name).exists():
            return
        self.node_directory(name).mkdir(parents=True, exist_ok=True)
        self.config_path(name).write_text(text)
        record.nodes[name].config_digest = digest

    def config_text(self, record: ClusterRecord, name: str) -> str:
        """A node's configuration as TOML."""
        sections: dict[str, dict[str, Any]] = {
            "node": {
                "name": name,
                "listen": record.nodes[name].address,
                "data_dir": str(self.data_path(name)),
                **({"transport": record.transport} if record.transport else {}),
            },
            "cluster": {
                "id": record.cluster_id,
                "shards": record.shards,
                "replication_factor": min(REPLICATION_FACTOR_MAX, len(record.nodes)),
            },
            "tracing": {"file": str(self.traces_path(name))},
        }
        for path, value in record.settings.items():
            section, _, field_name = path.partition(".")
            sections.setdefault(section, {})[field_name] = value
        lines = [f"# Node {name} of a playground; written by kvctl cluster up."]
        for section, fields in sections.items():
            lines += ["", f"[{section}]", *(f"{key} = {_toml_value(key, value)}" for key, value in fields.items())]
        lines += ["", "[cluster.members]", *(f'{member} = "{node.address}"' for member, node in record.nodes.items())]
        return "\n".join(lines) + "\n"

    def log_size_bytes(self, name: str) -> int:
        """Of what the node's processes wrote so far."""
        try:
            return self.log_path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def last_words(self, name: str, lines_max: int = 15) -> str:
        """Why a node's process may have ended: its first critical line, or else its first error, then its last lines. Nothing
        of what earlier processes of the node wrote.
        """
        begin = record_of(self.load(), name).log_offset
        size_bytes = self.log_size_bytes(name)
        if not size_bytes:
            return ""
        with self.log_path(name).open("rb") as file:
            file.seek(max(begin if begin <= size_bytes else 0, size_bytes - LAST_WORDS_SIZE_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()
        cause = next((line for level in _LEVELS_OF_CAUSES for line in lines if level.search(line)), None)
        tail = lines[-lines_max:]
        return "\n".join(tail if cause is None else [cause, *(line for line in tail if line != cause)])

    def log_tail(self, name: str, lines_max: int = 15) -> str:
        """The last lines that the node's process wrote."""
        try:
            with self.log_path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines_max:])
