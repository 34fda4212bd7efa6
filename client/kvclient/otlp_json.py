"""Spans as OTLP JSON lines, as the OpenTelemetry Collector's file exporter writes them and its receivers read them.

Owns the encoding (opentelemetry-proto, "JSON Protobuf Encoding": ids in hex, 64-bit integers as text, enums as numbers) and
the file. Never blocks the event loop: the SDK's batch processor calls it from its own thread. Invariant: a line is complete
and ends with a newline, or it is not there, unless the process dies within the write.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util.types import AttributeValue

_log = logging.getLogger(__name__)

_FLAG_HAS_IS_REMOTE = 0x100
_FLAG_IS_REMOTE = 0x200


class JsonLinesExporter(SpanExporter):
    """Appends each batch of spans to `path` as one line. Raises OSError from the constructor when it cannot be opened.

    A file that would grow beyond `size_bytes_max` becomes `path`.1, that one `path`.2, and so on up to `kept`; the oldest goes.
    """

    def __init__(self, path: Path, size_bytes_max: int | None = None, kept: int = 0) -> None:
        self._path, self._size_bytes_max, self._kept = path, size_bytes_max, kept
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._failing = self._is_over = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans; on an error they are lost, which is logged once until it works again."""
        line = as_line(spans).encode("utf-8", "backslashreplace") + b"\n"
        try:
            with self._lock:
                if self._is_over:
                    return SpanExportResult.FAILURE
                self._append(line)
        except OSError as error:
            if not self._failing:
                _log.warning("spans are lost: %s cannot be written: %s", self._path, error)
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def _append(self, line: bytes) -> None:
        """The whole line, or nothing of it."""
        if self._file.closed:  # It could not be rotated.
            self._file = self._path.open("ab", buffering=0)
        size = os.fstat(self._file.fileno()).st_size
        if self._size_bytes_max and size and size + len(line) > self._size_bytes_max:
            self._rotate()
            size = 0
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(size)
            raise

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept, 0, -1):
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(self._path.with_name(f"{self._path.name}.{number}"))
        self._file = self._path.open("ab" if self._kept else "wb", buffering=0)

    def shutdown(self) -> None:
        """Close the file."""
        with self._lock:
            self._is_over = True
            try:
                self._file.close()
            except OSError as error:
                _log.warning("%s cannot be closed: %s", self._path, error)


def as_line(spans: Sequence[ReadableSpan]) -> str:
    """The spans as one line, without its newline."""
    return json.dumps(encode(spans), ensure_ascii=False, separators=(",", ":"))


def encode(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """A TracesData message, with spans grouped by resource and instrumentation scope."""
    resources: dict[int, tuple[ReadableSpan, dict[int, list[ReadableSpan]]]] = {}
    for span in spans:
        scopes = resources.setdefault(id(span.resource), (span, {}))[1]
        scopes.setdefault(id(span.instrumentation_scope), []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(first.resource.attributes)},
                "scopeSpans": [
                    {"scope": _scope(group[0]), "spans": [_span(span) for span in group]} for group in scopes.values()
                ],
            }
            for first, scopes in resources.values()
        ]
    }


def _scope(span: ReadableSpan) -> dict[str, Any]:
    scope = span.instrumentation_scope
    return {} if scope is None else {"name": scope.name} | ({"version": scope.version} if scope.version else {})


def _span(span: ReadableSpan) -> dict[str, Any]:
    encoded = _identity(span.context)
    if span.parent is not None:
        encoded["parentSpanId"] = f"{span.parent.span_id:016x}"
        encoded["flags"] |= _FLAG_HAS_IS_REMOTE | (_FLAG_IS_REMOTE if span.parent.is_remote else 0)
    encoded |= {
        "name": span.name,
        "kind": span.kind.value + 1,  # the SDK counts from INTERNAL = 0, OTLP from UNSPECIFIED = 0
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes),
    }
    if span.events:
        encoded["events"] = [
            {"timeUnixNano": str(event.timestamp), "name": event.name, "attributes": _attributes(event.attributes)}
            for event in span.events
        ]
    if span.links:
        encoded["links"] = [_link(link) for link in span.links]
    status: dict[str, Any] = {}
    if span.status.status_code.value:
        status["code"] = span.status.status_code.value
    if span.status.description:
        status["message"] = span.status.description
    encoded["status"] = status
    return encoded


def _link(link: Link) -> dict[str, Any]:
    encoded = _identity(link.context)
    encoded["flags"] |= _FLAG_HAS_IS_REMOTE | (_FLAG_IS_REMOTE if link.context.is_remote else 0)
    return encoded | {"attributes": _attributes(link.attributes)}


def _identity(context: SpanContext | None) -> dict[str, Any]:
    if context is None:  # a span that was never started; the SDK exports none
        return {"traceId": "", "spanId": "", "flags": 0}
    encoded = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}", "flags": int(context.trace_flags)}
    return encoded | ({"traceState": context.trace_state.to_header()} if context.trace_state else {})


def _attributes(attributes: Mapping[str, AttributeValue] | None) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
