"""The requests of a call as its handler gets them: unpacked and deserialised one by one, when they are read."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from kvwire import compression
from kvwire.answer import Refused, of_server
from kvwire.codes import RESOURCE_EXHAUSTED, UNKNOWN
from kvwire.method import Method
from kvwire.stream import MessageRefused

if TYPE_CHECKING:
    from kvwire.server_call import ServerCall


async def read_request(call: ServerCall, method: Method) -> Any:
    """The next request; `grpc.aio.EOF` at the end. Raises `Refused`."""
    if call.message is not None:
        (compressed, message), call.message = call.message, None
    else:
        received = None if call.inbox is None else await call.inbox.get()
        if received is None:
            return grpc.aio.EOF
        compressed, message = received
    if compressed:
        message = await unpacked(call, compressed, message)
    return deserialized(method, message)


async def request_stream(call: ServerCall, method: Method) -> AsyncIterator[Any]:
    """All of them."""
    while (request := await read_request(call, method)) is not grpc.aio.EOF:
        yield request


async def unpacked(call: ServerCall, compressed: int, message: bytes) -> bytes:
    """What a compressed message contains, unpacked beside the event loop. Raises `Refused`."""
    unpack = functools.partial(compression.unpack, compressed, message, call.head.encoding, call.message_size_max)
    try:
        async with call.server.unpacking:  # What is unpacked is counted before more is.
            content = await call.server.loop.run_in_executor(call.server.unpackers, unpack)
            call.hold(len(content) - call.unpacked_size)  # The handler has done with the one before.
            call.unpacked_size = len(content)
    except MessageRefused as refused:
        if refused.code == RESOURCE_EXHAUSTED:
            call.server.on_limit("message_size")
        raise Refused(refused.code, of_server(refused)) from None
    if call.is_over:
        raise asyncio.CancelledError("the call is over")
    return content


def deserialized(method: Method, message: bytes) -> Any:
    """A request from its bytes. Raises `Refused`, without a traceback in the log: anybody may send nonsense."""
    if method.deserialize is None:
        return message
    try:
        return method.deserialize(message)
    except Exception as error:
        raise Refused(UNKNOWN, f"Unexpected {type(error)}: {error}") from None
