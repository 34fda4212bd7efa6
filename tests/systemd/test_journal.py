"""What nodes write into the journal: JSON with the right priority, and ids that lead to the trace."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from kvapi.v1 import kv_pb2
from tests.integration.harness import connect_node
from tests.systemd.deployment import Deployment
from tests.systemd.lab.journal import CRITICAL, DEBUG, ERROR, INFO, WARNING

PRIORITIES = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def _put_that_fails(address: str) -> None:
    """A write whose name says that it was begun in the far future is refused by the shard's leader."""
    name = kv_pb2.RequestId(session=bytes(16), sequence=1, started=1 << 60)
    put = kv_pb2.PutRequest(key=b"traced", value=b"1", request=name)
    async with connect_node(address) as node:
        with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
            await node.kv.Put(put, timeout=5, metadata=(("traceparent", TRACEPARENT),))


def test_request_that_fails_leaves_its_trace_id_in_the_journal_of_its_node(host: Deployment) -> None:
    """From an error that a user reports, with its trace, to the node's line about it: one `journalctl | grep`."""
    host.start_all()
    since = host.machine.mark()
    host.machine.call(lambda: asyncio.run(_put_that_fails(host.addresses["n1"])))

    def told() -> list[dict[str, object]]:
        entries = host.machine.journal("kvnode@n1", since=since)
        return [entry.fields | {"priority": entry.priority} for entry in entries if entry.event == "request failed"]

    (line,) = host.machine.until(told, "the line of the request")
    assert (line["trace_id"], line["operation"], line["outcome"]) == (TRACE_ID, "put", "SESSION_EXPIRED")
    assert line["priority"] == WARNING


def test_journal_of_nodes_has_json_with_the_priority_of_each_line(host: Deployment) -> None:
    """`journalctl -p warning` shows what matters, `jq` reads the rest; nothing of the protocol between them is left in it."""
    host.start_all()
    for name in host.names:
        entries = [entry for entry in host.machine.journal(f"kvnode@{name}") if entry.is_from_process]
        lines = [(entry, entry.fields) for entry in entries if entry.fields]
        assert len(lines) > 10
        assert {fields["node"] for _, fields in lines} == {name}
        wrong = [entry.message for entry, fields in lines if entry.priority != PRIORITIES[fields["level"]]]
        assert wrong == []
        assert not [entry for entry in entries if entry.message.startswith("<")]
