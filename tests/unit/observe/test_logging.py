"""Log lines: what they hold, what they survive, what they cost when they are off."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
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


class Journal:
    """The journal's end of a node's standard output."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(10)
        self.stream = ours.makefile("wb")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # (the kernel's least: some lines)
        ours.close()

    def read(self) -> list[bytes]:
        """The lines that are there, up to one that is whole."""
        data = b""
        while not data.endswith(b"\n"):
            data += self.socket.recv(1 << 20)
        return data.splitlines()


@pytest.fixture
def journal() -> Iterator[Journal]:
    """One that is connected."""
    journal = Journal()
    yield journal
    journal.stream.close()
    journal.socket.close()


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", b"<7>"), ("info", b"<6>"), ("warning", b"<4>"), ("error", b"<3>"), ("critical", b"<2>")]
)
def test_line_for_the_journal_begins_with_its_priority(journal: Journal, level: str, priority: bytes) -> None:
    """`journalctl -p err` must find errors; the rest of the line is the same JSON."""
    configure_logging(Log(level="debug"), node="n1", stream=journal.stream, journal=True)
    getattr(get_logger("raft"), level)("said")
    (line,) = journal.read()
    assert line.startswith(priority + b"{")
    assert json.loads(line[3:])["event"] == "said"


def test_text_of_many_lines_for_the_journal_has_its_priority_on_each(journal: Journal) -> None:
    """For people, a traceback has lines of its own, and each is an entry of the journal."""
    configure_logging(Log(format="console"), node="n1", stream=journal.stream, journal=True)
    get_logger("raft").error("broken", exc_info=ValueError("why"))
    lines_read = journal.read()
    assert len(lines_read) > 1
    assert all(line.startswith(b"<3>") for line in lines_read)


def test_journal_that_hangs_holds_nothing_up_and_hears_later_what_it_missed(journal: Journal) -> None:
    """Ten thousand lines that nobody reads: all calls return, what was taken is whole, and the rest is counted."""
    configure_logging(Log(), node="n1", stream=journal.stream, journal=True)
    log = get_logger("raft")
    for number in range(10_000):
        log.info("line", number=number, text="x" * (number % 700))
    journal.socket.setblocking(False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            data += journal.socket.recv(1 << 20)
    log.info("after")
    journal.socket.settimeout(10)
    data += b"".join(line + b"\n" for line in journal.read())
    told = [json.loads(line[3:]) for line in data.splitlines()]
    taken = [line["number"] for line in told if line["event"] == "line"]
    assert taken == list(range(len(taken)))
    assert [(line["event"], line.get("lost")) for line in told[-2:]] == [
        ("the journal did not take all lines", 10_000 - len(taken)),
        ("after", None),
    ]


def test_journal_that_is_gone_ends_nothing(journal: Journal) -> None:
    """It is restarted, and the connection with it is broken: the node goes on in silence."""
    configure_logging(Log(), node="n1", stream=journal.stream, journal=True)
    journal.socket.close()
    for _ in range(3):
        get_logger("raft").info("said")


def test_output_that_is_the_journal_is_known_by_its_file(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JOURNAL_STREAM names device and inode: a child whose output goes elsewhere inherits the variable."""
    with (tmp_path / "other").open("wb") as other:
        status = os.fstat(journal.stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        for stream in (journal.stream, other):
            configure_logging(Log(), node="n1", stream=stream)  # type: ignore[arg-type]
            get_logger("raft").info("said")
    assert journal.read()[0].startswith(b"<6>{")
    assert (tmp_path / "other").read_bytes().startswith(b"{")
