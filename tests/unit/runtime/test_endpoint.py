"""The receiving side of the peer protocols: what it refuses it tells the operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvapi.v1 import failure_detection_pb2, message_pb2
from kvnode.errors import InvalidRequest
from kvnode.runtime.endpoint import REFUSAL_LOGGED_EVERY, Endpoint


def _refuse(_: Any) -> None:
    raise InvalidRequest("leads[0].term", "n2 leads shard 0 in term 3; a term has one leader")


async def test_endpoint_refused_peer_is_logged_and_not_at_every_message() -> None:
    """A message that no correct peer sends is refused each time, and told once a second: it is sent again and again."""
    clock = SimpleNamespace(now=0.0)
    driver: Any = SimpleNamespace(loop=SimpleNamespace(time=lambda: clock.now))
    parts: Any = SimpleNamespace(check=lambda _: None, on_heartbeat=None, on_probe=None)
    endpoint = Endpoint(driver, {}, parts, parts, parts, parts, parts, {}, _refuse)

    async def send(sender: str) -> None:
        with pytest.raises(InvalidRequest):
            await endpoint.handle(failure_detection_pb2.HeartbeatRequest(message=message_pb2.Message(from_node=sender)))

    with capture_logs() as logs:
        for sender in ("n3", "n3", "n4"):
            await send(sender)
        clock.now = REFUSAL_LOGGED_EVERY
        await send("n3")
    assert [entry["sender"] for entry in logs] == ["n3", "n4", "n3"]
    assert "a term has one leader" in logs[0]["error"]
