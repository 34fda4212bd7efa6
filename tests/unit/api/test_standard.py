"""Health and reflection: what they say, and that their calls end when the node does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kvnode.api.standard import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health, Reflection


class Aborted(Exception):
    """What a call was ended with."""


class Context:
    """A call's, as far as it is needed here."""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call."""
        raise Aborted(code, details)


async def watch(health: Health, service: str, told: list[Any]) -> None:
    """A caller that reads all it gets."""
    async for response in health.Watch(health_pb2.HealthCheckRequest(service=service), Context()):
        told.append(response.status)


async def turns(count: int = 5) -> None:
    """Lets others run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_check_tells_the_state_of_a_service_and_knows_no_others() -> None:
    """Each by its name."""
    health = Health()
    health.set({"": True, "kv": False})
    for service, state in (("", SERVING), ("kv", NOT_SERVING)):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), Context())
        assert answer.status == state
    with pytest.raises(Aborted, match="NOT_FOUND"):
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"), Context())


async def test_watch_tells_each_change_once() -> None:
    """Also of a service that comes later; what changes nothing is not told."""
    health, told = Health(), []
    watching = asyncio.create_task(watch(health, "kv", told))
    for states in ({"": True}, {"kv": True}, {"kv": True}, {"kv": False, "": False}):
        await turns()
        health.set(states)
    await turns()
    assert told == [SERVICE_UNKNOWN, SERVING, NOT_SERVING]
    watching.cancel()


async def test_watch_that_ends_has_told_the_last_state() -> None:
    """Though both came in the same moment: who watches must not think that the node serves. One that begins later ends, too."""
    health, told = Health(), []
    health.set({"": True})
    watching = asyncio.create_task(watch(health, "", told))
    await turns()
    health.set({"": False})
    health.end()
    with pytest.raises(Aborted, match="UNAVAILABLE"):
        await watching
    assert told == [SERVING, NOT_SERVING]
    with pytest.raises(Aborted, match="UNAVAILABLE"):
        await watch(health, "", told)


async def test_caller_that_does_not_read_keeps_nobody_waiting() -> None:
    """The node sets its health, and others hear it."""
    health, told = Health(), []
    health.set({"": True})
    stuck = health.Watch(health_pb2.HealthCheckRequest(), Context())
    await anext(stuck)  # (Whoever does not ask for the next one leaves the handler where it is.)
    watching = asyncio.create_task(watch(health, "", told))
    await turns()
    health.set({"": False})
    await turns()
    assert told == [SERVING, NOT_SERVING]
    watching.cancel()
    await stuck.aclose()  # type: ignore[attr-defined]


async def test_reflection_stream_ends_when_the_node_does() -> None:
    """What was asked before is answered."""
    served = Reflection(["kvapi.v1.KV"])
    asked: asyncio.Queue[Any] = asyncio.Queue()

    async def questions() -> AsyncIterator[Any]:
        while True:
            yield await asked.get()

    answers = served.ServerReflectionInfo(questions(), Context())
    asked.put_nowait(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert [one.name for one in (await anext(answers)).list_services_response.service] == ["kvapi.v1.KV"]
    waiting = asyncio.ensure_future(anext(answers, "over"))
    await turns()
    assert not waiting.done()
    served.end()
    assert await waiting == "over"


async def test_reflection_stream_ends_with_its_questions() -> None:
    """As grpcurl's does."""
    served = Reflection(["kvapi.v1.KV"])

    async def one_question() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    assert len([answer async for answer in served.ServerReflectionInfo(one_question(), Context())]) == 1
