"""Where the network cuts a conversation means nothing: servers and clients that are fed byte by byte, or in random pieces."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.pairs import Context, Wire, path, service, soon, stream_stream, unary_unary
from tests.wire.serving import served

CUTS = [1, 2, 3, 5, 9, 13]


def conversation() -> bytes:
    """Two calls at once, one in frames of every kind that a client may send."""
    fields = h2.request_fields(path("Echo"), [("x-first", "a" * 40), ("x-second-bin", "AAEC")])
    return b"".join(
        [
            h2.PREFACE,
            h2.settings({h2.INITIAL_WINDOW_SIZE: 70_000, 0xF0F0: 1}),
            h2.window_update(0, 100_000),
            *h2.cut(h2.block(fields, huffman=True), 1, 11),
            h2.request(3, path("Chat")),
            h2.data(3, h2.message(b"one") + h2.message(b"two")[:3]),
            h2.ping(b"cutcutcu"),
            h2.data(1, h2.message(b"first")[:4]),
            h2.frame(0x77, 0xFF, 1, b"unknown"),
            h2.data(1, h2.message(b"first")[4:]),
            h2.data(1, end=True),
            h2.data(3, h2.message(b"two")[3:], end=True),
        ]
    )


async def converse(peer: raw.Peer) -> None:
    """What the conversation must bring, however it was cut."""
    first, second = await peer.answer(1), await peer.answer(3)
    assert (first.status, first.messages) == (0, [b"first"])
    assert (second.status, second.messages) == (0, [b"one", b"two"])
    await peer.take(lambda frame: frame.type == h2.PING and frame.payload == b"cutcutcu")


async def chat(requests: object, context: Context) -> object:
    """Echoes a stream."""
    async for message in requests:  # type: ignore[attr-defined]
        yield message


async def echo(request: bytes, context: Context) -> bytes:
    """Echoes a message."""
    return request


METHODS = service(Echo=unary_unary(echo), Chat=stream_stream(chat))


@pytest.mark.parametrize("size", CUTS)
async def test_server_fed_in_pieces_of_one_size_answers_all(server_wire: Wire, size: int) -> None:
    """Every place of every frame, its header included, is cut once for some size."""
    async with served(server_wire, METHODS) as address, raw.connect(address, preface=b"") as peer:
        await peer.send_in_cuts(conversation(), size)
        await converse(peer)


async def test_server_fed_in_random_pieces_answers_all(server_wire: Wire) -> None:
    """Pieces of one octet to the whole."""
    whole = conversation()
    async with served(server_wire, METHODS) as address:
        chance = random.Random(20)
        for _ in range(20):
            async with raw.connect(address, preface=b"") as peer:
                await peer.send_in_cuts(whole, lambda: chance.choice([1, 2, 3, 30, 300]))
                await converse(peer)


async def test_server_after_half_a_conversation_serves_others(server_wire: Wire) -> None:
    """A client that vanishes at any octet costs nobody else anything."""
    whole = conversation()
    async with served(server_wire, METHODS) as address:
        for at in range(0, len(whole), 17):
            async with raw.connect(address, preface=whole[:at]):
                pass
        async with raw.connect(address) as peer:
            assert (await peer.call(1, path("Echo"), b"still here")).messages == [b"still here"]


def reply(stream: int) -> bytes:
    """All that a server may say around the answer to one call."""
    return b"".join(
        [
            h2.settings({h2.MAX_CONCURRENT_STREAMS: 100, 0xF0F0: 1}),
            h2.window_update(0, 100_000),
            h2.ping(b"fromserv"),
            *h2.cut(h2.block([(":status", "200"), ("content-type", "application/grpc"), ("x-first", "b" * 30)]), stream, 9),
            h2.data(stream, h2.message(b"answer")[:7]),
            h2.frame(0x77, 0xFF, stream, b"unknown"),
            h2.data(stream, h2.message(b"answer")[7:]),
            *h2.cut(
                h2.block([("grpc-status", "0"), ("grpc-message", ""), ("x-last", "c" * 20)], huffman=True), stream, 5, end=True
            ),
        ]
    )


@pytest.mark.parametrize("size", [1, 2, 7, None])
async def test_client_fed_in_pieces_of_any_size_reads_all(client_wire: Wire, size: int | None) -> None:
    """As with the server: sizes of one octet, two, seven, and random ones."""
    chance = random.Random(size)
    async with raw.listen(greets=False) as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            call = channel.unary_unary(path("Echo"))(b"question")
            answer = asyncio.ensure_future(call)
            peer = await listener.accept()
            await peer.send(h2.settings())
            stream = (await listener.request(peer)).stream
            await peer.send_in_cuts(reply(stream), size or (lambda: chance.randint(1, 25)))
            assert await soon(answer) == b"answer"
            assert ("x-first", "b" * 30) in list(await call.initial_metadata())
            assert ("x-last", "c" * 20) in list(await call.trailing_metadata())
            await peer.take(lambda frame: frame.type == h2.PING and frame.payload == b"fromserv")
        finally:
            await channel.close()
