"""Structured logs: one line an event on standard output, JSON for machines or coloured text for people.

Owns the process's logging, structlog's and the standard library's alike. Never raises into its caller and never stops the
node: a line that cannot be written is dropped. Invariants: every line has `timestamp` (ISO 8601, UTC), `level`, `node` and
`event`; `trace_id` and `span_id` wherever the event belongs to a request; `shard` and `term` wherever they are bound:

    log = get_logger("raft").bind(shard=3)
    log.info("became leader", term=7)

Bind after `configure_logging`: a bound logger keeps the settings of its moment. A call below the configured level costs 0.1 µs,
so `log.debug` may stand anywhere but in the pure cores; do not format text into the event, pass values.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import BinaryIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from kvnode.config import Log
from kvnode.runtime.service_manager import is_journal, priority

__all__ = ["FilteringBoundLogger", "configure_logging", "get_logger", "set_level"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_FIRST = ("timestamp", "level", "node", "event")


_Render = Callable[[WrappedLogger, str, EventDict], bytes]


class _Logger(structlog.BoundLoggerBase):
    """Every logger's class. `set_level` exchanges its methods: loggers are cached, and a call that is off must cost nothing."""


def get_logger(component: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component`: "raft", "storage". Cheap; may be made before `configure_logging`."""
    return cast(FilteringBoundLogger, structlog.get_logger(component=component))


def configure_logging(config: Log, *, node: str, stream: BinaryIO | None = None, journal: bool | None = None) -> None:
    """Set up all logging of this process. `stream` is for tests; by default standard output.

    Where that is the systemd journal (`journal`; None: look), each line begins with its priority as "<6>", which the journal
    takes off again: `journalctl -p warning` then finds what it should. A journal that hangs holds nothing up.
    """
    stream = sys.stdout.buffer if stream is None else stream
    journal = is_journal(stream) if journal is None else journal
    render = _render_json if config.format == "json" else _console(colors=stream.isatty())
    render = _with_priority(render) if journal else render

    def add_node(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("node", node)
        return event

    def say_lost(lines: int) -> bytes:
        said = {"timestamp": datetime.now(UTC).isoformat(), "level": "warning", "node": node}
        return render(None, "warning", {**said, "event": "the journal did not take all lines", "lost": lines})

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_node,
            add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=_Logger,
        logger_factory=_Factory(_JournalLines(stream, say_lost) if journal else _Lines(stream)),
        cache_logger_on_first_use=True,
    )
    logging.getLogger().handlers[:] = [_FromStandardLibrary()]
    set_level(config.level)
    logging.captureWarnings(True)
    # (It logs each malformed `tracestate`, whole: any client could fill the disk with that.)
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)


def set_level(level: str) -> None:
    """The least level that is written from now on, by loggers that exist already, too."""
    chosen = structlog.make_filtering_bound_logger(_LEVELS[level])
    for name, method in vars(chosen).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(_LEVELS[level])


def add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: the ids of the request's trace, sampled or not, so that lines of all nodes can be joined."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    ordered = {**{name: event.pop(name) for name in _FIRST if name in event}, **event}
    return json.dumps(ordered, default=_plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _plain(value: object) -> object:
    """What JSON does not know: bytes as text, sets sorted (the same event is the same line), all else as str() says."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value)


def _console(*, colors: bool) -> _Render:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)

    def render(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        return renderer(logger, method, event).encode("utf-8", "backslashreplace")

    return render


def _with_priority(render: _Render) -> _Render:
    def prefixed(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        prefix = priority(event.get("level", "")).encode()
        # (A line that begins without a priority would get the stream's, which is another's.)
        return b"\n".join(prefix + line for line in render(logger, method, event).split(b"\n"))

    return prefixed


class _Lines:
    """Writes whole lines; from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        try:
            with self._lock:
                self._stream.write(line + b"\n")
                self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, or the stream is closed: nobody is left to tell
            pass

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg


class _JournalLines(_Lines):
    """Writes whole lines to the journal, and never waits for it. Its disk may hang while the node's own is well; a line that it
    does not take is lost, and how many were is said as soon as it takes one."""

    def __init__(self, stream: BinaryIO, say_lost: Callable[[int], bytes]) -> None:
        self._socket = socket.socket(fileno=os.dup(stream.fileno()))
        self._lock = threading.Lock()
        self._say_lost = say_lost
        self._rest = b""
        """Of a line that was taken in part: it comes before anything else."""
        self._lost = 0

    def msg(self, line: bytes) -> None:
        with self._lock:
            if self._lost and self._send(self._say_lost(self._lost) + b"\n"):
                self._lost = 0
            if self._lost or not self._send(line + b"\n"):
                self._lost += 1

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg

    def _send(self, line: bytes) -> bool:
        """Whether the line is on its way."""
        self._rest = self._rest[self._push(self._rest) :] if self._rest else b""
        if self._rest or not (taken := self._push(line)):
            return False
        self._rest = line[taken:]
        return True

    def _push(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except OSError:  # its queue is full, or it is gone
            return 0


class _Factory:
    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    def __call__(self, *_arguments: object) -> _Lines:
        return self._lines


class _FromStandardLibrary(logging.Handler):
    """Hands records of `logging` (grpc, asyncio, opentelemetry, warnings) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min((number for number in _LEVELS.values() if number >= record.levelno), default=50)
            get_logger(record.name).log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)
