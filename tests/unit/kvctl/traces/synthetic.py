"""Traces as the store makes them, without the store: spans with chosen durations, and their OTLP JSON.

Owns no judgement. Times are milliseconds from EPOCH_NS, by the client's clock; `skew_ms` says how wrong a node's clock is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kvctl.traces.span import KINDS, Link, Span

EPOCH_NS = 1_700_000_000_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MS = 1_000_000


@dataclass
class Scene:
    """Collects the spans of one trace."""

    trace_id: str = TRACE
    skew_ms: Mapping[str, float] = field(default_factory=dict)
    at_ms: float = 0
    """Where 0 is."""
    spans: list[Span] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(
        self,
        name: str,
        start_ms: float,
        end_ms: float,
        parent: Span | None = None,
        *,
        node: str = "",
        kind: str = "internal",
        links: Iterable[Span] = (),
        failed: bool = False,
        **attributes: Any,
    ) -> Span:
        """One span; attributes with "__" for the dots: kvnode__shard=3. `node` "": the client's."""
        skew_ms = self.skew_ms.get(node, 0) + self.at_ms
        span = Span(
            self.trace_id,
            f"{int(self.trace_id[:8], 16) ^ next(self.numbers):016x}",
            parent.span_id if parent else "",
            name,
            kind,
            EPOCH_NS + round((start_ms + skew_ms) * MS),
            EPOCH_NS + round((end_ms + skew_ms) * MS),
            "kvnode" if node else "shop",
            node or "shop-1",
            failed,
            attributes={key.replace("__", "."): value for key, value in attributes.items()},
            links=tuple(Link(other.trace_id, other.span_id) for other in links),
        )
        self.spans.append(span)
        return span

    def stage(self, name: str, start_ms: float, end_ms: float, parent: Span, *, node: str = "", **attributes: Any) -> Span:
        """A stage of `parent`."""
        return self.add(name, start_ms, end_ms, parent, node=node, kvnode__stage=name, **attributes)

    def client(self, operation: str, start_ms: float, end_ms: float, parent: Span | None = None, **attributes: Any) -> Span:
        """The SDK's span of an operation."""
        given = {
            "db__system__name": "kvnode",
            "db__operation__name": operation,
            "rpc__method": f"kvapi.v1.KV/{operation}",
            "kvnode__consistency": "strong",
        }
        return self.add(operation, start_ms, end_ms, parent, kind="client", **given | attributes)

    def server(
        self,
        operation: str,
        start_ms: float,
        end_ms: float,
        parent: Span | None,
        node: str,
        *,
        kind: str = "server",
        **more: Any,
    ) -> Span:
        """A node's span of an operation."""
        given = {
            "db__system__name": "kvnode",
            "db__operation__name": operation,
            "kvnode__consistency": "strong",
            "kvnode__shard": 3,
            "kvnode__kept": "sampled",
        }
        name = f"kvapi.v1.KV/{operation}" if kind == "server" else operation
        return self.add(name, start_ms, end_ms, parent, node=node, kind=kind, **given | more)

    def stages(self, parent: Span, node: str, start_ms: float, durations_ms: Mapping[str, float], **attributes: Any) -> float:
        """Stages one after the other; where the last ends. `attributes`: of one stage, by its name."""
        at = start_ms
        for name, duration_ms in durations_ms.items():
            self.stage(name, at, at + duration_ms, parent, node=node, **attributes.get(name, {}))
            at += duration_ms
        return at


@dataclass(frozen=True)
class Follower:
    """How long a follower's append took."""

    network: float = 0.2
    log_queue: float = 0.0
    write: float = 0.1
    fsync: float = 0.4
    quorum: bool = True

    @property
    def total(self) -> float:
        """On the follower."""
        return self.log_queue + self.write + self.fsync + 0.02


USUAL_FOLLOWERS = {"n2": Follower(), "n3": Follower(fsync=0.6, quorum=False)}


@dataclass(frozen=True)
class Put:
    """A strong write at its leader, stage by stage, in milliseconds; `scene` makes spans of it."""

    queue: float = 0.1
    network: float = 0.2
    admission: float = 0.1
    log_queue: float = 0.0
    write: float = 0.1
    fsync: float = 0.4
    apply: float = 0.05
    reply: float = 0.05
    followers: Mapping[str, Follower] = field(
        default_factory=lambda: {"n2": Follower(), "n3": Follower(fsync=0.6, quorum=False)}
    )
    leader: str = "n1"
    by_client: bool = True
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of the server's span, with "__" for the dots."""

    def scene(self, trace_id: str = TRACE, at_ms: float = 0, skew_ms: Mapping[str, float] | None = None) -> Scene:
        """Its spans."""
        scene = Scene(trace_id, skew_ms or {}, at_ms)
        arrived = self.queue + self.network / 2
        sent = arrived + self.admission + self.log_queue
        durable = sent + self.write + self.fsync
        answers = {name: sent + one.network + one.total for name, one in self.followers.items()}
        deciding = next(name for name, one in self.followers.items() if one.quorum)
        committed = max(durable, answers[deciding])
        answered = committed + self.apply + self.reply
        back = answered + self.network / 2
        call = None
        if self.by_client:
            root = scene.client("Put", 0, back, kvnode__attempts=1)
            scene.stage("client.queue", 0, self.queue, root)
            call = scene.stage("client.call", self.queue, back, root, kvnode__attempt=1)
        server = scene.server("Put", arrived, answered, call, self.leader, **self.attributes)
        stages = {"admission": self.admission, "log_queue": self.log_queue, "log_write": self.write + self.fsync}
        stages |= {"quorum": committed - durable, "apply": self.apply, "reply": self.reply}
        batch = {"kvnode__batch__id": f"{self.leader}/3/871", "kvnode__batch__records": 12}
        log = batch | {"kvnode__log__write_us": self.write * 1000, "kvnode__log__fsync_us": self.fsync * 1000}
        at = scene.stages(server, self.leader, arrived, stages, log_write=log, quorum={"kvnode__quorum__node": deciding})
        assert abs(at - answered) < 1e-6
        for name, one in self.followers.items():
            append = {
                "kvnode__node": name,
                "kvnode__quorum": one.quorum,
                "kvnode__append__log_queue_us": one.log_queue * 1000,
                "kvnode__append__log_write_us": (one.write + one.fsync) * 1000,
                "kvnode__append__fsync_us": one.fsync * 1000,
                "kvnode__append__total_us": one.total * 1000,
                "kvnode__append__network_us": one.network * 1000,
            }
            scene.add("append", sent, answers[name], server, node=self.leader, **append)
        return scene


def slow_put() -> Put:
    """The one of the documentation: n3 is FAILED, and the disk of n2 is slow."""
    slow = {"n2": Follower(write=2, fsync=41.6)}
    attributes = {"kvnode__nodes__failed": ["n3"], "kvnode__kept": "slow"}
    return Put(network=4, admission=2, write=0.5, fsync=1.2, apply=1, reply=1.3, followers=slow, attributes=attributes)


def trace_id_of(number: int) -> str:
    """A trace id that begins with the number."""
    return f"{number:08x}{'0' * 23}1"


def usual_puts(count: int, first: int = 1, put: Put | None = None) -> list[Span]:
    """Many puts that differ a little."""
    put = put or Put()
    return [
        span
        for number in range(first, first + count)
        for span in replace(put, fsync=put.fsync * (1 + (number * 7 % 11) / 100), network=put.network * (1 + number % 5 / 50))
        .scene(trace_id_of(number), at_ms=number * 10)
        .spans
    ]


def as_line(spans: Iterable[Span]) -> str:
    """One line of OTLP JSON, without its newline."""
    resources: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        resources.setdefault((span.service, span.instance), []).append(span)
    return json.dumps(
        {
            "resourceSpans": [
                {
                    "resource": {
                        "attributes": _attributes({"service.name": service, "service.instance.id": instance}),
                    },
                    "scopeSpans": [{"scope": {"name": "test"}, "spans": [_encode(span) for span in group]}],
                }
                for (service, instance), group in resources.items()
            ]
        }
    )


def write(path: Path, spans: Iterable[Span], lines: int = 1) -> Path:
    """A file of traces."""
    spans = list(spans)
    size = max(1, -(-len(spans) // lines))
    path.write_text("".join(as_line(spans[at : at + size]) + "\n" for at in range(0, len(spans), size)))
    return path


def _encode(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **({"parentSpanId": span.parent_id} if span.parent_id else {}),
        "name": span.name,
        "kind": KINDS.index(span.kind),
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "links": [{"traceId": link.trace_id, "spanId": link.span_id} for link in span.links],
        "status": {"code": 2, "message": span.message} if span.failed else {},
    }


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {kinds[type(value)]: str(value) if type(value) is int else value}
