"""gRPC's standard services as a node serves them: health and reflection.

Owns what health says, and the end of the calls that have none of their own: a `Watch` and an open reflection stream last for as
long as their callers like, and would keep a node that stops waiting for its whole grace. No caller keeps another one waiting,
nor the node itself, by not reading: the reference implementation of health holds a lock while it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """See GRPC Health Checking Protocol; "" is the server as a whole."""

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._over = False

    def set(self, states: Mapping[str, bool]) -> None:
        """Whether services are serving, by name; tells those who watch."""
        new = {name: SERVING if serving else NOT_SERVING for name, serving in states.items()}
        if any(self._states.get(name) != state for name, state in new.items()):
            self._states.update(new)
            self._tell()

    def end(self) -> None:
        """Ends every `Watch`, as soon as it has told the latest state."""
        self._over = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is none."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is called {request.service!r}")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now, and each time it changes; of a service that is none, SERVICE_UNKNOWN until it is one."""
        told = None
        while True:
            changed, state = self._changed, self._states.get(request.service, SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield health_pb2.HealthCheckResponse(status=state)
            elif self._over:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops")
            else:
                await changed.wait()


class Reflection:
    """See GRPC Server Reflection Protocol."""

    def __init__(self, names: list[str]) -> None:
        """`names` of the services."""
        self._servicer: Any = reflection.aio.ReflectionServicer(names)
        self._over = asyncio.Event()

    def add_to(self, server: Any) -> None:
        """Registers it on a server with grpc.aio's interface."""
        register: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        register(self, server)

    def end(self) -> None:
        """Ends every stream, once what it was asked is answered."""
        self._over.set()

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers until the caller has no more questions, or the node stops."""
        async for response in self._servicer.ServerReflectionInfo(_until(requests, self._over), context):
            yield response


async def _until(requests: AsyncIterator[Any], over: asyncio.Event) -> AsyncIterator[Any]:
    """The requests that come before it is over."""
    ended = asyncio.ensure_future(over.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (request := following.result()) is None:
                following.cancel()
                return
            yield request
    finally:
        ended.cancel()
