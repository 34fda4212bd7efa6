"""Metadata of calls: there and back, early and late, in text and in bytes, in order, and within limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import Context, Rig, path, refusal, soon, stream_unary, unary_stream, unary_unary

StatusCode = grpc.StatusCode
LEGAL: dict[str, tuple[tuple[str, str | bytes], ...]] = {
    "text": (("a", "1"), ("b_c.d-9", "~ printable !")),
    "empty": (("a", ""),),
    "spaces": (("a", " around  and inside "),),
    "commas": (("a", "1,2"), ("a", "3")),
    "bytes of text": (("a", b"plain"),),
    "bytes": (("all-bin", bytes(range(256))),),
    "no bytes": (("none-bin", b""),),
    "lengths": tuple((f"k{length}-bin", b"\xff" * length) for length in range(1, 8)),
    "commas in bytes": (("x-bin", b"1,2"), ("x-bin", b","), ("x-bin", b"3")),
    "duplicates": (("a", "1"), ("a", "2"), ("a", "1"), ("b", "0")),
    "many": tuple((f"key-{number}", str(number)) for number in range(60)),
    "unknown grpc key": (("grpc-foo", "1"),),
}
ILLEGAL: dict[str, Any] = {
    "upper case": (("Key", "x"),),
    "space in key": (("a b", "x"),),
    "empty key": (("", "x"),),
    "pseudo header": ((":path", "/other"),),
    "nul in key": (("a\x00", "x"),),
    "key of unicode": (("ä", "x"),),
    "line break": (("a", "x\r\ny: z"),),
    "nul": (("a", "\x00"),),
    "tab": (("a", "\t"),),
    "delete": (("a", "\x7f"),),
    "unicode": (("a", "é"),),
    "raw bytes of text": (("a", b"\xff"),),
    "text of bytes": (("a-bin", "text"),),
    "number": (("a", 5),),
}


def of(metadata: Any) -> list[tuple[str, str | bytes]]:
    """The metadata without what the transport adds."""
    return [(key, value) for key, value in metadata if key != "user-agent"]


def text(metadata: Any) -> list[tuple[str, str | bytes]]:
    """As it is received: text is text, also when sent as bytes."""
    return [
        (key, value.decode() if isinstance(value, bytes) and not key.endswith("-bin") else value) for key, value in metadata
    ]


async def test_metadata_of_every_sort_arrives_as_sent_three_times(rig: Rig) -> None:
    """Invocation, initial and trailing metadata hold what was given: keys, types, duplicates in order."""
    seen: list[Any] = []

    async def handler(request: bytes, context: Context) -> bytes:
        sent = LEGAL[request.decode()]
        seen.append(of(context.invocation_metadata()))
        await context.send_initial_metadata(sent)
        context.set_trailing_metadata(sent)
        return b""

    method = await rig.unary_unary(handler)
    for name, sent in LEGAL.items():
        call = method(name.encode(), metadata=sent)
        await soon(call)
        wanted = text(sent)
        assert seen.pop() == wanted, name
        assert of(await call.initial_metadata()) == wanted, name
        assert of(await call.trailing_metadata()) == wanted, name


@pytest.mark.parametrize("sent", [None, (), [], grpc.aio.Metadata()], ids=["none", "tuple", "list", "metadata"])
async def test_no_metadata_in_any_form_is_fine(rig: Rig, sent: Any) -> None:
    """Nothing given, nothing arrives."""

    async def handler(request: bytes, context: Context) -> bytes:
        assert not of(context.invocation_metadata())
        return b""

    call = (await rig.unary_unary(handler))(b"", metadata=sent)
    await soon(call)
    assert await call.initial_metadata() == grpc.aio.Metadata()
    assert await call.trailing_metadata() == grpc.aio.Metadata()


@pytest.mark.parametrize(
    "sent",
    [
        (("a", "1"), ("b", "2"), ("a", "3")),
        [("a", "1"), ("b", "2"), ("a", "3")],
        grpc.aio.Metadata(("a", "1"), ("a", "3"), ("b", "2")),
    ],
    ids=["tuple", "list", "metadata"],
)
async def test_metadata_in_any_form_is_received_as_metadata(rig: Rig, sent: Any) -> None:
    """The caller gets `grpc.aio.Metadata`; the handler a sequence of pairs that have names, too."""

    async def handler(request: bytes, context: Context) -> bytes:
        received = context.invocation_metadata()
        assert isinstance(received, tuple)
        assert all(item.key == item[0] and item.value == item[1] for item in received)  # type: ignore[attr-defined]
        pairs = tuple((key, value) for key, value in received if key in "ab")
        await context.send_initial_metadata(pairs)
        context.set_trailing_metadata(grpc.aio.Metadata(*pairs))
        return b""

    call = (await rig.unary_unary(handler))(b"", metadata=sent)
    await soon(call)
    for received in (await call.initial_metadata(), await call.trailing_metadata()):
        assert isinstance(received, grpc.aio.Metadata)
        assert received.get_all("a") == ["1", "3"]
        assert received["b"] == "2"


@pytest.mark.parametrize("sent", ILLEGAL.values(), ids=ILLEGAL)
async def test_illegal_metadata_of_caller_is_refused_unsent(rig: Rig, sent: Any) -> None:
    """A header that HTTP/2 does not allow is the caller's mistake: an exception, and the handler never runs."""
    called: list[bytes] = []

    async def handler(request: bytes, context: Context) -> bytes:
        called.append(request)
        return request

    method = await rig.unary_unary(handler)
    with pytest.raises(Exception) as caught:
        await soon(method(b"never", metadata=sent))
    assert not isinstance(caught.value, grpc.RpcError)
    assert await soon(method(b"on")) == b"on"
    assert called == [b"on"]


@pytest.mark.parametrize("sent", [ILLEGAL[name] for name in ("upper case", "empty key", "line break", "unicode", "number")])
async def test_illegal_metadata_of_handler_ends_the_call(rig: Rig, sent: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is the handler's mistake: the caller gets INTERNAL or UNKNOWN, and no broken header."""
    caplog.set_level(logging.CRITICAL)

    async def initial(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata(sent)
        return b""

    async def trailing(request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(sent)
        return b""

    async def aborting(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.NOT_FOUND, "details", sent)

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    channel = await rig.open(I=unary_unary(initial), T=unary_unary(trailing), A=unary_unary(aborting), Echo=unary_unary(echo))
    for method in "ITA":
        error = await refusal(channel.unary_unary(path(method))(b""))
        assert error.code() in (StatusCode.INTERNAL, StatusCode.UNKNOWN), method
    assert await soon(channel.unary_unary(path("Echo"))(b"on")) == b"on"


async def test_reserved_keys_of_caller_are_not_believed(rig: Rig) -> None:
    """What the transport itself says (`te`, `content-type`, `grpc-encoding`) cannot be said by metadata."""
    seen: list[Any] = []

    async def handler(request: bytes, context: Context) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        return request

    method = await rig.unary_unary(handler)
    lies = (("te", "x"), ("content-type", "text/html"), ("grpc-encoding", "gzip"), ("user-agent", "me"))
    for lie in lies:
        assert await soon(method(b"x", metadata=(lie, ("kept", "1")))) == b"x"
        received = seen.pop()
        assert received["kept"] == "1"
        assert received.get(lie[0], "") != lie[1]


async def test_transport_headers_stay_out_of_metadata(rig: Rig) -> None:
    """A handler sees the caller's metadata and the user agent; no pseudo header, no `te`, no `grpc-accept-encoding`."""

    async def handler(request: bytes, context: Context) -> bytes:
        return ",".join(sorted(key for key, _ in context.invocation_metadata())).encode()

    method = await rig.unary_unary(handler)
    call = method(b"", metadata=(("mine", "1"),), timeout=10)
    assert await soon(call) == b"mine,user-agent"
    assert of(await call.initial_metadata()) == of(await call.trailing_metadata()) == []


async def test_user_agent_with_primary_begins_with_it(rig: Rig) -> None:
    """`grpc.primary_user_agent` comes first, the library after it."""

    async def handler(request: bytes, context: Context) -> bytes:
        return str(dict(context.invocation_metadata())["user-agent"]).encode()

    library = await soon((await rig.unary_unary(handler))(b""))
    assert library
    method = await rig.unary_unary(handler, channel={"options": [("grpc.primary_user_agent", "shop/1.2")]})
    assert await soon(method(b"")) == b"shop/1.2 " + library


async def test_default_authority_of_channel_changes_no_call(rig: Rig) -> None:
    """A server does not mind under which name it is called."""

    async def handler(request: bytes, context: Context) -> bytes:
        return request

    method = await rig.unary_unary(handler, channel={"options": [("grpc.default_authority", "kv.example.com")]})
    assert await soon(method(b"x")) == b"x"


async def test_peer_of_a_call_is_an_address(rig: Rig) -> None:
    """`peer()` names the caller's address in gRPC's form; without TLS nobody is authenticated."""

    async def handler(request: bytes, context: Context) -> bytes:
        assert context.peer_identities() is None
        assert context.peer_identity_key() is None
        assert not context.auth_context().get("x509_common_name")
        return context.peer().encode()

    kind, host, port = (await soon((await rig.unary_unary(handler))(b""))).decode().split(":")
    assert (kind, host) == ("ipv4", "127.0.0.1")
    assert 0 < int(port) < 65536


async def test_initial_metadata_asked_for_early_is_the_first_sent(rig: Rig) -> None:
    """It may be awaited before the response is (grpcio gives it with the response); sending it twice is a mistake."""
    go = asyncio.Event()

    async def handler(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata((("early", "1"),))
        await go.wait()
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("early", "2"),))
        return b"done"

    call = (await rig.unary_unary(handler))(b"")
    asked = asyncio.create_task(call.initial_metadata())
    await asyncio.sleep(0)
    assert not call.done()
    go.set()
    assert await soon(asked) == (("early", "1"),)
    assert await soon(call) == b"done"


async def test_initial_metadata_of_streams_arrives_with_first_message(rig: Rig) -> None:
    """Without `send_initial_metadata` it is empty, and there as soon as a message is."""
    go = asyncio.Event()

    async def silent(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        await go.wait()

    async def early(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("early", "1"),))
        await go.wait()
        yield b"1"
        context.set_trailing_metadata((("late", "2"),))

    channel = await rig.open(S=unary_stream(silent), E=unary_stream(early))
    first, second = channel.unary_stream(path("S"))(b""), channel.unary_stream(path("E"))(b"")
    assert await soon(first.initial_metadata()) == grpc.aio.Metadata()
    assert await soon(second.initial_metadata()) == (("early", "1"),)
    go.set()
    assert [message async for message in first] == [message async for message in second] == [b"1"]
    assert await first.trailing_metadata() == grpc.aio.Metadata()
    assert await second.trailing_metadata() == (("late", "2"),)


async def test_initial_metadata_of_open_request_stream_is_available(rig: Rig) -> None:
    """Before the caller has written anything, the handler may speak."""

    async def handler(requests: AsyncIterator[bytes], context: Context) -> bytes:
        await context.send_initial_metadata((("early", "1"),))
        return b"".join([request async for request in requests])

    channel = await rig.open(C=stream_unary(handler))
    call = channel.stream_unary(path("C"))()
    assert await soon(call.initial_metadata()) == (("early", "1"),)
    await call.write(b"a")
    await call.done_writing()
    assert await soon(call) == b"a"


async def test_trailing_metadata_set_twice_is_the_last(rig: Rig) -> None:
    """`set_trailing_metadata` replaces; `abort` replaces only if it brings some."""

    async def handler(request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata((("first", "1"),))
        if request == b"replace":
            await context.abort(StatusCode.ABORTED, "", (("third", "3"),))
        if request == b"keep":
            await context.abort(StatusCode.ABORTED, "")
        context.set_trailing_metadata((("second", "2"),))
        return b""

    method = await rig.unary_unary(handler)
    call = method(b"")
    await soon(call)
    assert await call.trailing_metadata() == (("second", "2"),)
    assert (await refusal(method(b"replace"))).trailing_metadata() == (("third", "3"),)
    assert (await refusal(method(b"keep"))).trailing_metadata() == (("first", "1"),)


async def test_metadata_of_trailers_only_answer_is_trailing(rig: Rig) -> None:
    """A refusal before any message has no initial metadata, on whatever way it is asked for."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.ABORTED, "", (("late", "1"),))

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await handler(request, context)
        yield b""

    channel = await rig.open(U=unary_unary(handler), G=unary_stream(stream))
    for call in (channel.unary_unary(path("U"))(b""), channel.unary_stream(path("G"))(b"")):
        assert await soon(call.initial_metadata()) == grpc.aio.Metadata()
        assert await soon(call.trailing_metadata()) == (("late", "1"),)
        assert await soon(call.code()) is StatusCode.ABORTED
        assert call.done()
