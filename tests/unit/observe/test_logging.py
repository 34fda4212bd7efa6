"""Log lines: what they hold, what they survive, what they cost when they are off."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.context import attach, detach

from kvnode.config import Log
from kvnode.observe.logging import configure_logging, get_logger, set_level
from kvnode.observe.tracing import context_of, span_context_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().decode().splitlines()]


def test_logger_with_bound_values_writes_one_json_object_a_line() -> None:
    """Timestamp, level, node and event come first; what is bound and what is said follow."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    get_logger("raft").bind(shard=3).info("became leader", term=7)
    (line,) = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "node", "event"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "node": "n1",
        "event": "became leader",
        "component": "raft",
        "shard": 3,
        "term": 7,
    }


def test_logger_below_its_level_writes_nothing() -> None:
    """The level filters both structlog's and the standard library's loggers."""
    stream = io.BytesIO()
    configure_logging(Log(level="warning"), node="n1", stream=stream)
    get_logger("raft").info("not said")
    logging.getLogger("grpc").info("not said")
    assert stream.getvalue() == b""


def test_logger_within_a_trace_adds_its_ids() -> None:
    """Lines of one request can be joined over all nodes, though it is not sampled."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    span = span_context_of(f"00-{TRACE}-{SPAN}-00")
    assert span is not None
    token = attach(context_of(span))
    try:
        get_logger("api").warning("slow")
    finally:
        detach(token)
    get_logger("api").warning("idle")
    inside, outside = lines(stream)
    assert (inside["trace_id"], inside["span_id"]) == (TRACE, SPAN)
    assert "trace_id" not in outside
    assert not trace.get_current_span().get_span_context().is_valid


def test_logger_given_what_json_lacks_writes_it_as_text() -> None:
    """Keys are bytes, and not always text; a set is written in order; nothing raises."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    get_logger("kv").info("odd", key=b"\xffa", names={"b", "a"}, error=ValueError("x"), surrogate="\udc80")
    (line,) = lines(stream)
    assert (line["key"], line["names"], line["error"]) == ("\\xffa", ["a", "b"], "x")


def test_standard_library_records_go_the_same_way() -> None:
    """What grpc, asyncio and warnings say is JSON too, with a traceback in one line."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    logging.getLogger("asyncio").warning("slow callback: %d ms", 120)
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("grpc").exception("failed")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    slow, failed, *_ = lines(stream)
    assert (slow["component"], slow["event"], slow["level"]) == ("asyncio", "slow callback: 120 ms", "warning")
    assert failed["exception"].endswith("OSError: gone")


def test_console_format_is_for_people() -> None:
    """One readable line, without colours where there is no terminal."""
    stream = io.BytesIO()
    configure_logging(Log(format="console"), node="n1", stream=stream)
    get_logger("raft").info("became leader", term=7)
    text = stream.getvalue().decode()
    assert "became leader" in text
    assert "term=7" in text
    assert "\x1b" not in text


def test_logger_whose_reader_is_gone_does_not_raise() -> None:
    """A log that cannot be written never stops the node."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    stream.close()
    get_logger("raft").error("unheard")


def test_level_changed_later_counts_for_loggers_that_were_used_before() -> None:
    """A reload: loggers are cached at their first use, and all must follow; down and up again."""
    stream = io.BytesIO()
    configure_logging(Log(level="info"), node="n1", stream=stream)
    log = get_logger("raft").bind(shard=3)
    log.info("first")
    set_level("error")
    log.info("not wanted")
    logging.getLogger("grpc").warning("nor this")
    set_level("debug")
    log.debug("wanted now")
    assert [line["event"] for line in lines(stream)] == ["first", "wanted now"]


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", b"<7>"), ("info", b"<6>"), ("warning", b"<4>"), ("error", b"<3>"), ("critical", b"<2>")]
)
def test_line_for_the_journal_begins_with_its_priority(level: str, priority: bytes) -> None:
    """`journalctl -p err` must find errors; the rest of the line is the same JSON."""
    stream = io.BytesIO()
    configure_logging(Log(level="debug"), node="n1", stream=stream, journal=True)
    getattr(get_logger("raft"), level)("said")
    assert stream.getvalue().startswith(priority + b"{")
    assert json.loads(stream.getvalue()[3:])["event"] == "said"


def test_text_of_many_lines_for_the_journal_has_its_priority_on_each() -> None:
    """For people, a traceback has lines of its own, and each is an entry of the journal."""
    stream = io.BytesIO()
    configure_logging(Log(format="console"), node="n1", stream=stream, journal=True)
    get_logger("raft").error("broken", exc_info=ValueError("why"))
    assert len(stream.getvalue().splitlines()) > 1
    assert all(line.startswith(b"<3>") for line in stream.getvalue().splitlines())


def test_output_that_is_the_journal_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JOURNAL_STREAM names device and inode: a child whose output goes elsewhere inherits the variable."""
    with (tmp_path / "journal").open("wb") as journal, (tmp_path / "other").open("wb") as other:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        for stream in (journal, other):
            configure_logging(Log(), node="n1", stream=stream)
            get_logger("raft").info("said")
    assert (tmp_path / "journal").read_bytes().startswith(b"<6>{")
    assert (tmp_path / "other").read_bytes().startswith(b"{")
