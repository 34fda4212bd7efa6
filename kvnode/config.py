"""Every setting of a node, with its unit, its trade-off and, where there is one, its formula.

Owns the names, the defaults, and what must hold between settings. Never reads a clock or the environment by itself:
`Config.load` is given both file and environment, and a `Config` built directly depends on nothing else, so that the
simulator may build thousands (`Config.randomized`). Invariants: a `Config` that exists is valid as a whole, and frozen.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kvnode.config_fields import (
    GIB,
    KIB,
    MIB,
    Address,
    AddressOrNone,
    Directory,
    Endpoint,
    Headers,
    Milliseconds,
    Name,
    Size,
    host_and_port,
)
from kvnode.config_layers import ConfigError, Contradictions, Layers, Tree, explain, read_layers
from kvnode.limits import ACKS_MAX, NODES_MAX, SHARDS_MAX

__all__ = ["Cluster", "Config", "ConfigError", "Node"]

# pydantic would look for plugins in the metadata of all that is installed, at every start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

_WILDCARDS = ("0.0.0.0", "[::]")

TRANSPORT_DEFAULT: Literal["kvwire", "grpcio"] = "kvwire"

PRESETS: Mapping[str, Tree] = {
    "local": {
        "node": {"name": "n1", "data_dir": "kvnode-data"},
        "cluster": {"id": "local", "replication_factor": 1},
        "storage": {"ballast_size_bytes": 0},
        "log": {"format": "console"},
    },
}
"""Settings that go together. `local`: one node for trying things out, which replicates nothing."""


class Section(BaseModel):
    """What all sections share: they are frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must be a number or text")
        return value


class Node(Section):
    """This node; the only section that differs between the nodes of a cluster."""

    name: Name
    """The member's name, a key of `cluster.members`. A name keeps its data directory: a lost disk makes a new node."""
    listen: Address = "127.0.0.1:7401"
    """"host:port" to listen on, for clients and peers alike."""
    advertise: str = Field(default="", validate_default=True)
    """"host:port" where the others reach this node; empty: `listen`. It is this node's address in `cluster.members`."""
    data_dir: Directory
    """Directory of the log and the store, created when it is missing. One process at a time may hold it."""
    transport: Literal["kvwire", "grpcio"] = TRANSPORT_DEFAULT
    """What carries gRPC, for clients and to peers. "kvwire" is this project's own, on asyncio: several times the calls for the
    same processor time. "grpcio" is the reference. Nodes and clients with different ones understand each other."""

    @field_validator("advertise", mode="after")
    @classmethod
    def _advertise_follows_listen(cls, value: str, info: ValidationInfo) -> str:
        return host_and_port(value) if value else str(info.data.get("listen", ""))


class Cluster(Section):
    """The cluster; the same on every node."""

    id: Name
    """The cluster's identity, minted at its creation: peers with another one are refused."""
    shards: int = Field(default=8, ge=1, le=SHARDS_MAX)
    """Number of shards, fixed at creation. Each has a leader of its own, so shards >= 2 * nodes spreads the writes evenly;
    each costs a Raft group: memory, and 30 bytes in every heartbeat."""
    replication_factor: int = Field(default=3, ge=1, le=ACKS_MAX)
    """Replicas of each shard. 2f + 1 of them serve strong requests with f down; an even number adds cost, not safety."""
    members: dict[Name, Address] = Field(default_factory=dict, max_length=NODES_MAX)
    """Name and "host:port" of every node, this one included; empty: this node alone."""


class FailureDetection(Section):
    """Who is alive. It chooses routes and starts elections early; it never grants a vote, a lease or a commit."""

    heartbeat_interval_ms: Milliseconds = 200
    """Between two heartbeats to each peer. Shorter finds failures sooner; cost: 2 * (nodes - 1) * 1000 / interval messages
    a second and node. A strong read waits for a quorum round, which a heartbeat may carry."""
    phi_suspected: float = Field(default=5.0, gt=0, le=100)
    """Suspicion at which others are asked to probe. phi = -log10 P(a heartbeat comes so late), so 5.0 errs once in 10^5
    intervals if they are distributed as before (Hayashibara et al. 2004)."""
    phi_failed: float = Field(default=8.0, gt=0, le=100)
    """Suspicion at which a node may be declared FAILED, when no probe reaches it either."""
    silence_ms_min: Milliseconds = 600
    """Floor: a shorter silence is never suspicious, however regular the heartbeats were. It must outlast the pauses of a busy
    process (garbage collection, scheduling), and three heartbeats."""
    silence_ms_max: Milliseconds = 3000
    """Ceiling: a longer silence is a failure, however irregular the heartbeats were. Bounds the time to detect."""
    probe_timeout_ms: Milliseconds = 300
    """How long an indirect probe may take (SWIM, Das et al. 2002, section 3.1); it delays the verdict by at most this."""
    probe_helpers: int = Field(default=2, ge=0, le=NODES_MAX)
    """How many others are asked to probe. 0: the own view decides alone, which one broken link misleads."""


class Gossip(Section):
    """How fast what members know of each other spreads: about log(nodes) / log(fanout + 1) intervals to everyone."""

    interval_ms: Milliseconds = 1000
    """Between two rounds. Cost: fanout * 1000 / interval messages a second and node."""
    fanout: int = Field(default=2, ge=1, le=NODES_MAX)
    """Peers in a round."""


class Election(Section):
    """When a shard's followers elect a new leader (Ongaro 2014, section 3.4)."""

    timeout_ms_min: Milliseconds = 800
    """A follower that heard no leader for a random time from this to `timeout_ms_max` campaigns. Shorter means a shorter
    outage after a crash; too short means needless elections under load. At least three heartbeats."""
    timeout_ms_max: Milliseconds = 1600
    """The upper end. The wider the range, the rarer are split votes: two of n followers collide with a probability of about
    n * round trip / (max - min)."""
    rebalance_after_ms: Milliseconds = 5000
    """How long a shard's preferred leader must be healthy and caught up before leadership is transferred back to it."""
    leader_lease: bool = False
    """Serve strong reads from a lease, without a quorum round. Saves a round trip for each batch of reads; correct only while
    no clock runs wrong by more than `clock_drift_max`."""
    clock_drift_max: float = Field(default=0.01, ge=0, lt=0.5)
    """How much faster or slower than true time a clock may run, as a fraction. A lease lasts
    timeout_ms_min * (1 - drift) / (1 + drift) from when its round was sent."""


class Replication(Section):
    """How leaders bring followers up to date."""

    entries_retained: int = Field(default=4096, ge=1, le=10_000_000)
    """Log entries a shard keeps in memory after a flush, for slow followers; one that is further behind gets a snapshot.
    Costs entries * their size for each shard; covers entries / (writes a second) seconds of absence."""


class Eventual(Section):
    """How eventual writes spread after their acknowledgement."""

    replicate_interval_ms: int = Field(default=5, ge=0, le=60_000)
    """How long writes are gathered before they are sent to the other replicas. Longer makes bigger batches, and a longer time
    in which only one disk holds a write; 0 sends at once."""
    relay_after_ms: Milliseconds = 500
    """After this long without a place in the log a write is handed on by whoever holds it, in its origin's stead."""


class Transactions(Section):
    """Transactions over several shards."""

    push_after_ms: Milliseconds = 1000
    """How long a shard waits for the decision of a transaction that it has voted for, before it has the anchor decide, which
    aborts whatever is undecided. It bounds for how long a dead coordinator's locks are in the way; a transaction that needs
    longer than this, to wait for its locks and to vote, is aborted and tried again."""


class Storage(Section):
    """The log and the store on disk. Sizes are bytes, or text as "64MiB"."""

    segment_size_bytes: Size = Field(default=64 * MIB, ge=64 * KIB, le=4 * GIB)
    """A segment file of the log. Space is given back a segment at a time; smaller ones mean more files and more syncs of the
    directory."""
    memtable_size_bytes: Size = Field(default=16 * MIB, ge=64 * KIB, le=4 * GIB)
    """Writes of all shards gathered in memory before a flush. Larger means fewer flushes (bytes written to disk go down with
    overwrites), more memory (up to twice this while one flushes), and a longer replay after a crash."""
    flush_interval_s: float = Field(default=30.0, gt=0, le=86_400)
    """A flush happens at least so often, in seconds, when there is anything to flush."""
    ballast_size_bytes: Size = Field(default=16 * MIB, ge=0, le=16 * GIB)
    """Space held back on disk, so that a full one can still take the writes that free it. 0: none."""
    quota_bytes: Size = Field(default=0, ge=0)
    """At most so much in the data directory; beyond it writes are refused and reads go on. 0: as much as the disk has."""
    store_size_bytes_max: Size = Field(default=64 * GIB, ge=MIB)
    """LMDB's map, which is reserved address space and no memory: the store cannot outgrow it."""


class Clock(Section):
    """The hybrid logical clock (Kulkarni et al. 2014)."""

    max_clock_skew_ms: Milliseconds = 500
    """A peer's clock further ahead than this is refused and never advances ours. It bounds by how much last-writer-wins may
    mistake the order of eventual writes; clocks kept by NTP stay within 50 ms."""


class Faults(Section):
    """Fault injection for game days and tests (`kvctl fault`)."""

    enabled: bool = False
    """Serve `kvapi.v1.Fault`. Whoever reaches the node can then cut its links, fail its disk and turn its clock."""


class Log(Section):
    """What the process says on standard output. The replicated log is `storage`."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """The least level that is written. "debug" writes several lines a request."""
    format: Literal["json", "console"] = "json"
    """"json": one object a line, for machines. "console": for people."""


class Tracing(Section):
    """OpenTelemetry traces. A node keeps its latest spans in memory; a file and a collector get them where they are named.

    Spans are made after their request has ended, for those that are sampled, and for all that were slow, failed or superseded.
    """

    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of requests traced among those whose caller did not decide. A traced request costs some 100 microseconds a node."""
    slow_ms: float = Field(default=100, ge=0)
    """A request that takes longer is kept, sampled or not; so is one slower than 99 % of its kind. 0: no such bound."""
    kept_per_second_max: int = Field(default=20, ge=0, le=10_000)
    """Requests kept a second without having been sampled: when everything is slow, that must not make it slower."""
    otlp_endpoint: Endpoint = ""
    """Where spans go over OTLP/gRPC: "http://host:4317"; empty: nowhere."""
    otlp_headers: Headers = SecretStr("")
    """What the collector wants to see with each export, as "authorization=Bearer 123,tenant=orders". A secret: it is never
    shown, and best comes as a credential (systemd's LoadCredential) instead of from the file."""
    file: str = ""
    """A file that gets spans as OTLP JSON, one object a line; empty: none."""
    file_size_bytes_max: int = Field(default=64 * MIB, ge=64 * KIB)
    """A larger file becomes FILE.1, the one before FILE.2, and so on."""
    files_kept: int = Field(default=4, ge=0, le=100)
    """How many of these stay, beside FILE."""


class Metrics(Section):
    """Metrics for Prometheus, over HTTP."""

    listen: AddressOrNone = ""
    """Where `/metrics` is served: "host:port"; port 0: any. Empty: nowhere. Whoever reaches it may read it: keep it inside."""


class Config(Section):
    """A node's whole configuration. Shared by value: frozen, and valid as a whole."""

    node: Node
    cluster: Cluster
    failure_detection: FailureDetection = FailureDetection()
    gossip: Gossip = Gossip()
    election: Election = Election()
    replication: Replication = Replication()
    eventual: Eventual = Eventual()
    transactions: Transactions = Transactions()
    storage: Storage = Storage()
    clock: Clock = Clock()
    faults: Faults = Faults()
    log: Log = Log()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _valid_as_a_whole(self) -> Self:
        if not self.cluster.members:
            alone = self.cluster.model_copy(update={"members": {self.node.name: self.node.advertise}})
            object.__setattr__(self, "cluster", alone)
        found = [*_contradictory_members(self), *_contradictory_timings(self), *_contradictory_sizes(self)]
        if found:
            raise Contradictions(found)
        return self

    @classmethod
    def load(cls, path: Path | str | None, flags: Mapping[str, str], environ: Mapping[str, str], preset: str = "") -> Config:
        """The configuration from `preset` < TOML file < credentials < `KVNODE_SECTION__FIELD` in `environ` < `flags`.

        `flags` map "section.field" to text; credentials are files of that name in `environ`'s CREDENTIALS_DIRECTORY.
        Raises ConfigError with one sentence for each mistake.
        """
        return cls.load_with_origins(path, flags, environ, preset)[0]

    @classmethod
    def load_with_origins(
        cls, path: Path | str | None, flags: Mapping[str, str], environ: Mapping[str, str], preset: str = ""
    ) -> tuple[Config, Layers]:
        """As `load`, and with it where each value came from."""
        if preset and preset not in PRESETS:
            raise ConfigError([f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}"])
        layers = read_layers(Config, (preset, PRESETS.get(preset, {})), Path(path) if path else None, flags, environ)
        try:
            return Config.model_validate(layers.tree), layers
        except ValidationError as error:
            raise explain(error, Config, layers) from None

    @classmethod
    def randomized(cls, rng: random.Random, *, node: Node, cluster: Cluster) -> Config:
        """A valid configuration with timings and sizes from sane ranges, so small that a short run turns every wheel."""
        heartbeat_ms = rng.choice((30, 50, 50, 100))
        silence_ms_min = heartbeat_ms * rng.randint(3, 6)
        timeout_ms_min = max(heartbeat_ms * rng.randint(4, 10), silence_ms_min)
        phi_suspected = rng.uniform(3.0, 6.0)
        return cls(
            node=node,
            cluster=cluster,
            failure_detection=FailureDetection(
                heartbeat_interval_ms=heartbeat_ms,
                phi_suspected=phi_suspected,
                phi_failed=phi_suspected + rng.uniform(1.0, 6.0),
                silence_ms_min=silence_ms_min,
                silence_ms_max=silence_ms_min * rng.randint(2, 8),
                probe_timeout_ms=heartbeat_ms * rng.randint(1, 4),
                probe_helpers=rng.randint(0, 3),
            ),
            gossip=Gossip(interval_ms=heartbeat_ms * rng.randint(2, 20), fanout=rng.randint(1, 3)),
            election=Election(
                timeout_ms_min=timeout_ms_min,
                timeout_ms_max=int(timeout_ms_min * rng.uniform(1.5, 3.0)),
                rebalance_after_ms=timeout_ms_min * rng.randint(1, 10),
                leader_lease=rng.random() < 0.25,
                clock_drift_max=rng.choice((0.001, 0.01, 0.05)),
            ),
            replication=Replication(entries_retained=rng.choice((1, 16, 256, 4096))),
            eventual=Eventual(
                replicate_interval_ms=rng.choice((0, 1, 5, 50)), relay_after_ms=heartbeat_ms * rng.randint(1, 20)
            ),
            transactions=Transactions(push_after_ms=rng.choice((200, 500, 1000, 2000))),
            storage=Storage(
                segment_size_bytes=rng.choice((64 * KIB, 256 * KIB, MIB)),
                memtable_size_bytes=rng.choice((64 * KIB, 256 * KIB, MIB)),
                flush_interval_s=rng.choice((0.5, 2.0, 10.0, 60.0)),
                ballast_size_bytes=rng.choice((0, 64 * KIB)),
                store_size_bytes_max=64 * MIB,
            ),
            clock=Clock(max_clock_skew_ms=rng.choice((50, 500, 2000))),
        )

    def to_toml(self, origins: Layers | None = None) -> str:
        """The configuration as TOML that `load` reads back; with `origins` each value says where it came from."""
        lines: list[str] = []
        for section, values in self.model_dump(mode="json").items():
            tables = {name: value for name, value in values.items() if isinstance(value, dict)}
            plain = {name: value for name, value in values.items() if name not in tables}
            for table, items in ((section, plain), *((f"{section}.{name}", value) for name, value in tables.items())):
                lines += ["", f"[{table}]"]
                for name, value in items.items():
                    comment = f"  # {origins.origin(f'{table}.{name}')}" if origins else ""
                    hidden = "# a secret: " if value == _HIDDEN else ""
                    lines.append(f"{hidden}{_toml_key(name)} = {_toml_value(value)}{comment}")
        return "\n".join(lines[1:]) + "\n"


_HIDDEN = str(SecretStr("secret"))
"""What stands for every secret."""


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    return repr(value)


def _contradictory_members(config: Config) -> Iterator[tuple[str, str]]:
    node, cluster = config.node, config.cluster
    if node.advertise.rpartition(":")[0] in _WILDCARDS:
        yield "node.advertise", f"others cannot reach {node.advertise}; say an address of this host"
    if node.name not in cluster.members:
        yield "cluster.members", f"lacks this node, {node.name!r}; there are: {', '.join(cluster.members)}"
    elif cluster.members[node.name] != node.advertise:
        listed = cluster.members[node.name]
        yield "node.advertise", f"is {node.advertise!r}, but cluster.members lists {node.name!r} at {listed!r}"
    if cluster.replication_factor > len(cluster.members):
        few = f"is {cluster.replication_factor}, but cluster.members lists only {len(cluster.members)}"
        yield "cluster.replication_factor", f"{few}; list them all, or set it to 1 for a node alone"
    owners: dict[str, str] = {}
    for name, address in cluster.members.items():
        if owners.setdefault(address, name) != name:
            yield f"cluster.members.{name}", f"has the same address as {owners[address]!r}: {address}"


def _contradictory_timings(config: Config) -> Iterator[tuple[str, str]]:
    detection, election = config.failure_detection, config.election
    heartbeats_ms = 3 * detection.heartbeat_interval_ms
    if detection.silence_ms_min < heartbeats_ms:
        why = f"must be at least three heartbeats ({heartbeats_ms} ms)"
        yield "failure_detection.silence_ms_min", f"is {detection.silence_ms_min}, {why}"
    if detection.silence_ms_min >= detection.silence_ms_max:
        why = f"must be below silence_ms_max ({detection.silence_ms_max})"
        yield "failure_detection.silence_ms_min", f"is {detection.silence_ms_min}, {why}"
    if detection.phi_suspected >= detection.phi_failed:
        why = f"must be below phi_failed ({detection.phi_failed})"
        yield "failure_detection.phi_suspected", f"is {detection.phi_suspected}, {why}"
    if election.timeout_ms_min < heartbeats_ms:
        why = f"must be at least three times failure_detection.heartbeat_interval_ms ({heartbeats_ms} ms)"
        yield "election.timeout_ms_min", f"is {election.timeout_ms_min}, {why}"
    if election.timeout_ms_min >= election.timeout_ms_max:
        why = f"must be below timeout_ms_max ({election.timeout_ms_max})"
        yield "election.timeout_ms_min", f"is {election.timeout_ms_min}, {why}"


def _contradictory_sizes(config: Config) -> Iterator[tuple[str, str]]:
    storage = config.storage
    least = storage.ballast_size_bytes + 2 * storage.segment_size_bytes
    if 0 < storage.quota_bytes < least:
        why = f"must be 0, or at least ballast_size_bytes + 2 * segment_size_bytes ({least})"
        yield "storage.quota_bytes", f"is {storage.quota_bytes}, {why}"
    if storage.store_size_bytes_max < 2 * storage.memtable_size_bytes:
        why = f"must hold at least two flushes (2 * memtable_size_bytes = {2 * storage.memtable_size_bytes})"
        yield "storage.store_size_bytes_max", f"is {storage.store_size_bytes_max}, {why}"
