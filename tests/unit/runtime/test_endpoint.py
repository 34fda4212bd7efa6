"""The receiving side of the peer protocols: what it refuses it tells the operator."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvapi.v1 import failure_detection_pb2, message_pb2, replication_pb2
from kvnode.errors import InvalidRequest
from kvnode.observe.log_times import LogTimes
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


async def timing_of_append(write_began: float, write_ended: float, arrived: float, answered: float) -> dict[str, int]:
    """What a follower says of an append of one entry, which a write of the log brought to its disk."""
    clock = SimpleNamespace(now=write_began)
    times = LogTimes(lambda: clock.now)
    write = times.on_submit(1, [(0, 5, 0)])
    write.began, write.write_s, write.fsync_s = write_began, write_ended - write_began, write_ended - write_began
    clock.now = write_ended
    times.on_written(write)
    clock.now = arrived

    def on_append(sender: str, append: Any, collector: Any, now: float) -> None:
        clock.now = answered
        collector.set_result(replication_pb2.ShardAppendResult(success=True))

    driver: Any = SimpleNamespace(loop=asyncio.get_running_loop(), wake=lambda shard: None)
    parts: Any = SimpleNamespace(check=lambda _: None, seal=lambda _, it: it, on_heartbeat=None, on_probe=None)
    replicas: Any = {0: SimpleNamespace(on_append=on_append)}
    endpoint = Endpoint(driver, replicas, parts, parts, parts, parts, times, {}, lambda request: None)
    append = replication_pb2.ShardAppend(shard=0, previous_index=4, entries=[replication_pb2.LogEntry()])
    response = await endpoint.handle(replication_pb2.AppendRequest(appends=[append]))
    return {field.name: value for field, value in response.timing.ListFields()}


async def test_append_tells_how_long_it_waited_and_was_written() -> None:
    """In microseconds, by the follower's clock alone."""
    found = await timing_of_append(write_began=10.5, write_ended=11.0, arrived=10.25, answered=11.0)
    assert found == {"total_us": 750_000, "log_queue_us": 250_000, "log_write_us": 500_000, "fsync_us": 500_000}


async def test_append_that_comes_again_is_not_told_the_write_of_the_first() -> None:
    """Its entries were durable before it arrived: it waited for no disk."""
    found = await timing_of_append(write_began=10.0, write_ended=11.0, arrived=12.0, answered=12.001)
    assert found == {"total_us": pytest.approx(1_000, abs=1)}


async def test_append_is_answered_after_a_disk_hung_for_hours() -> None:
    """A duration that its field cannot hold must not keep the answer from the leader."""
    found = await timing_of_append(write_began=10.0, write_ended=20_000.0, arrived=9.0, answered=20_000.0)
    assert found["log_write_us"] == found["total_us"] == 2**32 - 1
