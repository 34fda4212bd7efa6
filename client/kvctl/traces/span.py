"""A span, as OTLP JSON has it, in the words of this store.

Owns the decoding (opentelemetry-proto, "JSON Protobuf Encoding", and what collectors write a little differently). Knows no
files and no traces.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
"""OTLP's numbers of kinds are places in this."""
SHARD_MAX = (1 << 31) - 1
TIME_NS_MAX = (1 << 63) - 1
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
"""A surrogate. A pair of them is a character; one alone is none, and cannot be encoded."""
_STATUS_ERROR = (2, "2", "STATUS_CODE_ERROR")


class NotTraces(ValueError):
    """A line that is JSON, and no TracesData message."""


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that has to do with this one."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time. Ids are lower-case hex; times are Unix nanoseconds of the process's own clock."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty: a root."""
    name: str
    kind: str
    """One of KINDS."""
    start_ns: int
    end_ns: int
    service: str = ""
    """`service.name`: "kvnode", or the application's."""
    instance: str = ""
    """`service.instance.id`: of a node its name."""
    failed: bool = False
    """Whether its status is an error."""
    message: str = ""
    """What the status says."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    @property
    def duration_ns(self) -> int:
        """Never negative."""
        return max(self.end_ns - self.start_ns, 0)

    @property
    def node(self) -> str:
        """The node that made it; empty: a client or an application."""
        return self.instance if self.service == "kvnode" else ""

    @property
    def process(self) -> str:
        """Whose clock it was taken by."""
        return f"{self.service}/{self.instance}"

    @property
    def stage(self) -> str:
        """The stage of its request that it is; empty: none."""
        return str(self.attributes.get("kvnode.stage", ""))

    @property
    def operation(self) -> str:
        """The store's operation that it is, as "put"; empty: none."""
        if self.attributes.get("db.system.name") != "kvnode":
            return ""
        return str(self.attributes.get("db.operation.name", "")).lower()

    @property
    def consistency(self) -> str:
        """As "strong"; empty where the operation has none."""
        return str(self.attributes.get("kvnode.consistency", ""))

    @property
    def shard(self) -> int | None:
        """None: unknown."""
        value = self.attributes.get("kvnode.shard")
        return value if isinstance(value, int) and 0 <= value <= SHARD_MAX else None

    @property
    def batch_id(self) -> str:
        """The group commit, or the SDK's batch, that it was part of; empty: none."""
        return str(self.attributes.get("kvnode.batch.id", ""))

    @property
    def error(self) -> str:
        """Why it failed, as "NO_LEADER" or "COMPARE_FAILED"; empty: it did not."""
        found = self.attributes.get("error.type") or self.attributes.get("db.response.status_code", "")
        return "" if found == "OK" else str(found) or ("error" if self.failed else "")

    def number(self, attribute: str) -> float:
        """An attribute's value; 0 where there is none or it is no number."""
        value = self.attributes.get(attribute, 0)
        return value if isinstance(value, int | float) and math.isfinite(value) else 0


def decode_line(line: str | bytes) -> Iterator[Span]:
    """The spans of one line. Raises ValueError for a line that is damaged, NotTraces for one that holds something else."""
    text = line.decode() if isinstance(line, bytes) else line
    try:
        message = json.loads(text, parse_constant=lambda name: None)
        if not isinstance(message, dict) or not isinstance(message.get("resourceSpans"), list):
            raise NotTraces("no resourceSpans")
        if _HALF_CHARACTER.search(text):
            json.dumps(message, ensure_ascii=False).encode()
        return iter([span for resource in message["resourceSpans"] for span in _of_resource(resource)])
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not as OTLP has it: {error!r}") from None


def _of_resource(message: Mapping[str, Any]) -> Iterator[Span]:
    resource = _attributes((message.get("resource") or {}).get("attributes"))
    service, instance = str(resource.get("service.name", "")), str(resource.get("service.instance.id", ""))
    for scope in message.get("scopeSpans") or ():
        for span in scope.get("spans") or ():
            yield _span(span, service, instance)


def _span(message: Mapping[str, Any], service: str, instance: str) -> Span:
    status = message.get("status") or {}
    return Span(
        trace_id=message["traceId"].lower(),
        span_id=message["spanId"].lower(),
        parent_id=(message.get("parentSpanId") or "").lower(),
        name=str(message.get("name", "")),
        kind=_kind(message.get("kind", 0)),
        start_ns=_time_ns(message.get("startTimeUnixNano")),
        end_ns=_time_ns(message.get("endTimeUnixNano")),
        service=service,
        instance=instance,
        attributes=_attributes(message.get("attributes")),
        links=tuple(Link(link["traceId"].lower(), link["spanId"].lower()) for link in message.get("links") or ()),
        failed=status.get("code") in _STATUS_ERROR,
        message=str(status.get("message") or ""),
    )


def _time_ns(value: object) -> int:
    number = int(str(value or 0))
    if not 0 <= number <= TIME_NS_MAX:
        raise ValueError(f"{number} is no time")
    return number


def _kind(value: object) -> str:
    """From a number, or from a name as "SPAN_KIND_SERVER"; what nobody knows is unspecified."""
    name = str(value).removeprefix("SPAN_KIND_").lower()
    number = int(name) if name.isdecimal() else KINDS.index(name) if name in KINDS else 0
    return KINDS[number] if number < len(KINDS) else KINDS[0]


def _attributes(pairs: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value") or {}) for pair in pairs or ()}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, held in value.items():
        if kind == "intValue":
            return int(held)
        if kind == "arrayValue":
            return [_value(each) for each in held.get("values") or ()]
        if kind == "kvlistValue":
            return _attributes(held.get("values"))
        return held
    return None
