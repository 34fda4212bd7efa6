"""How calls end: every status code, every way a handler sets it, and what reaches the caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.wire.pairs import GRPCIO, Context, Rig, refusal, soon, unary_stream, unary_unary

StatusCode = grpc.StatusCode
CODES = [code for code in StatusCode if code is not StatusCode.OK]
DETAILS = {
    "empty": "",
    "plain": "no such key",
    "percent": "100 % sure, %41, %, %zz",
    "unicode": "naïve → 日本語 🎈",
    "control": "line\nbreak\ttab\x7f",
    "spaces": " around ",
    "long": "x" * 4000,
    "long unicode": "é" * 1200,
}


async def read_all(call: Any) -> tuple[list[bytes], StatusCode, str]:
    """The messages of a stream, its code and its details."""
    got: list[bytes] = []
    try:
        async for message in call:
            got.append(message)
    except grpc.aio.AioRpcError as error:
        return got, error.code(), error.details()
    return got, await call.code(), await call.details()


async def test_abort_with_every_code_reaches_the_caller(rig: Rig) -> None:
    """Code and details are those that the handler gave, for all sixteen codes of failure."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(CODES[request[0]], f"details {request[0]}")

    call = await rig.unary_unary(handler)
    for index, code in enumerate(CODES):
        error = await refusal(call(bytes([index])))
        assert (error.code(), error.details()) == (code, f"details {index}")


@pytest.mark.parametrize("details", DETAILS.values(), ids=DETAILS)
async def test_details_of_any_text_arrive_unchanged(rig: Rig, details: str) -> None:
    """Details are percent-encoded on their way, and decoded again."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.ABORTED, details)

    call = await rig.unary_unary(handler)
    error = await refusal(call(b""))
    assert (error.code(), error.details()) == (StatusCode.ABORTED, details)


async def test_error_of_a_call_says_code_details_and_metadata(rig: Rig) -> None:
    """What is raised is an AioRpcError with plain methods; the call itself tells the same by coroutines."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata((("early", "1"),))
        await context.abort(StatusCode.NOT_FOUND, "gone", (("late", "2"), ("late", "3"), ("raw-bin", b"\x00\xff")))

    call = (await rig.unary_unary(handler))(b"")
    error = await refusal(call)
    assert isinstance(error, grpc.RpcError)
    assert error.initial_metadata() == await call.initial_metadata() == (("early", "1"),)
    late = (("late", "2"), ("late", "3"), ("raw-bin", b"\x00\xff"))
    assert error.trailing_metadata() == await call.trailing_metadata() == late
    assert (await call.code(), await call.details()) == (StatusCode.NOT_FOUND, "gone")
    assert call.done()
    assert not call.cancelled()
    assert "NOT_FOUND" in str(error)
    assert "gone" in str(error)
    assert isinstance(error.debug_error_string(), str)
    with pytest.raises(grpc.aio.AioRpcError, match="gone"):
        await call


async def no_details(context: Context) -> bytes:
    await context.abort(StatusCode.NOT_FOUND)


async def details_of_none(context: Context) -> bytes:
    await context.abort(StatusCode.NOT_FOUND, None)  # type: ignore[arg-type]


async def abort_by_number(context: Context) -> bytes:
    await context.abort(5, "by number")  # type: ignore[arg-type]


async def abort_by_unknown_number(context: Context) -> bytes:
    await context.abort(99, "by number")  # type: ignore[arg-type]


async def abort_caught(context: Context) -> bytes:
    try:
        await context.abort(StatusCode.NOT_FOUND, "first")
    except Exception:
        pass
    return b"ignored"


async def abort_twice(context: Context) -> bytes:
    try:
        await context.abort(StatusCode.NOT_FOUND, "first")
    except Exception:
        with pytest.raises(grpc.aio.UsageError):
            await context.abort(StatusCode.ABORTED, "second")
        raise


async def abort_with_status(context: Context) -> bytes:
    status = status_pb2.Status(code=code_pb2.OUT_OF_RANGE, message="too far")
    await context.abort_with_status(rpc_status.to_status(status))


async def set_both(context: Context) -> bytes:
    context.set_code(StatusCode.DATA_LOSS)
    context.set_details("torn")
    return b"discarded"


async def set_code_alone(context: Context) -> bytes:
    context.set_code(StatusCode.DATA_LOSS)
    return b"discarded"


async def set_code_by_number(context: Context) -> bytes:
    context.set_code(15)  # type: ignore[arg-type]
    context.set_details("by number")
    return b"discarded"


async def set_unknown_number(context: Context) -> bytes:
    context.set_code(77)  # type: ignore[arg-type]
    context.set_details("by number")
    return b"discarded"


async def set_and_return_none(context: Context) -> None:
    context.set_code(StatusCode.NOT_FOUND)


async def set_and_raise(context: Context) -> bytes:
    context.set_code(StatusCode.DATA_LOSS)
    context.set_details("overwritten")
    raise ValueError("boom")


async def set_and_abort(context: Context) -> bytes:
    context.set_code(StatusCode.DATA_LOSS)
    context.set_details("overwritten")
    await context.abort(StatusCode.ABORTED, "aborted")


async def set_details_and_raise(context: Context) -> bytes:
    context.set_details("overwritten")
    raise ValueError("boom")


async def raise_error(context: Context) -> bytes:
    raise ValueError("100 % böse")


async def raise_time_out(context: Context) -> bytes:
    raise TimeoutError


async def raise_error_of_a_call(context: Context) -> bytes:
    raise grpc.aio.AioRpcError(StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), details="inner")


async def return_number(context: Context) -> Any:
    return 5


FAILURES: list[tuple[Any, StatusCode, str]] = [
    (no_details, StatusCode.NOT_FOUND, ""),
    (details_of_none, StatusCode.NOT_FOUND, ""),
    (abort_by_number, StatusCode.NOT_FOUND, "by number"),
    (abort_by_unknown_number, StatusCode.UNKNOWN, "by number"),
    (abort_caught, StatusCode.NOT_FOUND, "first"),
    (abort_twice, StatusCode.NOT_FOUND, "first"),
    (abort_with_status, StatusCode.OUT_OF_RANGE, "too far"),
    (set_both, StatusCode.DATA_LOSS, "torn"),
    (set_code_alone, StatusCode.DATA_LOSS, ""),
    (set_code_by_number, StatusCode.DATA_LOSS, "by number"),
    (set_unknown_number, StatusCode.UNKNOWN, "by number"),
    (set_and_return_none, StatusCode.NOT_FOUND, ""),
    (set_and_raise, StatusCode.DATA_LOSS, "Unexpected <class 'ValueError'>: boom"),
    (set_and_abort, StatusCode.ABORTED, "aborted"),
    (set_details_and_raise, StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: boom"),
    (raise_error, StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: 100 % böse"),
    (raise_time_out, StatusCode.UNKNOWN, "Unexpected <class 'TimeoutError'>: "),
]


async def test_failing_handlers_of_all_sorts_give_code_and_details(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Aborts, codes that are set, and exceptions: the caller sees what the handler meant, by async and by generator."""
    caplog.set_level(logging.CRITICAL)

    async def unary(request: bytes, context: Context) -> Any:
        return await FAILURES[request[0]][0](context)

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await FAILURES[request[0]][0](context)

    channel = await rig.open(Unary=unary_unary(unary), Stream=unary_stream(stream))
    wrong = []
    for index, (how, code, details) in enumerate(FAILURES):
        error = await refusal(channel.unary_unary("/wire.test.Service/Unary")(bytes([index])))
        if (error.code(), error.details()) != (code, details):
            wrong.append(f"{how.__name__}: {error.code()} {error.details()!r}")
        got = await soon(read_all(channel.unary_stream("/wire.test.Service/Stream")(bytes([index]))))
        if got != ([b"first"], code, details):
            wrong.append(f"{how.__name__} in a stream: {got}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("how", [raise_error_of_a_call, return_number])
async def test_errors_with_long_texts_are_unknown(rig: Rig, how: Any) -> None:
    """The error of another call is no status of this one; nor can anything but bytes be sent without a serializer."""

    async def handler(request: bytes, context: Context) -> Any:
        return await how(context)

    error = await refusal((await rig.unary_unary(handler))(b""))
    assert error.code() is StatusCode.UNKNOWN
    assert error.details().startswith("Unexpected <class ")


async def set_ok_by_number(context: Context) -> bytes:
    context.set_code(0)  # type: ignore[arg-type]
    context.set_details("unseen")
    return b"fine"


async def set_ok(context: Context) -> bytes:
    context.set_code(StatusCode.DATA_LOSS)
    context.set_code(StatusCode.OK)
    return b"fine"


async def set_details_alone(context: Context) -> bytes:
    context.set_details("unseen")
    return b"fine"


async def return_none(context: Context) -> None:
    return None


@pytest.mark.parametrize(
    ("how", "answer"), [(set_ok_by_number, b"fine"), (set_ok, b"fine"), (set_details_alone, b"fine"), (return_none, b"")]
)
async def test_calls_that_succeed_have_ok_and_no_details(rig: Rig, how: Any, answer: bytes) -> None:
    """Details of a success are not shown; a handler that returns None answers an empty message."""

    async def handler(request: bytes, context: Context) -> Any:
        return await how(context)

    call = (await rig.unary_unary(handler))(b"")
    assert await soon(call) == answer
    assert (await call.code(), await call.details()) == (StatusCode.OK, "")
    assert call.done()
    assert not call.cancelled()


async def test_abort_with_ok_raises_in_the_handler(rig: Rig) -> None:
    """A success cannot be aborted with: the handler learns it. Its caller fails as UNKNOWN; grpcio lets it wait."""
    raised: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def handler(request: bytes, context: Context) -> bytes:
        try:
            await context.abort(StatusCode.OK, "nonsense")
        except Exception as error:
            raised.set_result(error)
            raise

    method = await rig.unary_unary(handler)
    if rig.pair.server.name == GRPCIO:
        call = method(b"")
        await soon(raised)
        call.cancel()
    else:
        assert (await refusal(method(b""))).code() is StatusCode.UNKNOWN


async def test_context_before_and_after_a_code_is_set_tells_it(rig: Rig) -> None:
    """Interceptors that log need `code()`, `details()` and `trailing_metadata()`: what was set is told."""
    told: list[Any] = []

    async def handler(request: bytes, context: Context) -> bytes:
        told.append((context.code(), context.details(), tuple(context.trailing_metadata())))
        context.set_code(StatusCode.NOT_FOUND)
        context.set_details("söme")
        context.set_trailing_metadata((("a", "b"),))
        told.append((context.code(), context.details(), tuple(context.trailing_metadata())))
        assert not context.done()
        assert not context.cancelled()
        return b""

    await refusal((await rig.unary_unary(handler))(b""))
    before, after = told
    assert before[0] in (None, StatusCode.OK, 0)
    assert before[1:] == ("", ())
    assert after == (StatusCode.NOT_FOUND, "söme", (("a", "b"),))


async def test_rich_status_in_trailers_is_read_by_grpc_status(rig: Rig) -> None:
    """`grpc-status-details-bin` carries a google.rpc.Status with its details."""
    rich = any_pb2.Any()
    rich.Pack(error_details_pb2.ErrorInfo(reason="LEADER_CHANGED", domain="test", metadata={"leader": "n2"}))
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="not thé leader", details=[rich])

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort_with_status(rpc_status.to_status(status))

    call = (await rig.unary_unary(handler))(b"")
    error = await refusal(call)
    assert rpc_status.from_call(_Snapshot(error)) == status
    assert error.code() is StatusCode.FAILED_PRECONDITION


class _Snapshot:
    """What `rpc_status.from_call()` reads."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details, self.trailing_metadata = error.code, error.details, error.trailing_metadata


async def test_synchronous_handlers_run_beside_the_loop(rig: Rig) -> None:
    """Plain functions and generators run in the pool of threads, with `abort`, `set_code` and exceptions as usual."""

    def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"abort":
            context.abort(StatusCode.NOT_FOUND, "gone")
        if request == b"set":
            context.set_code(StatusCode.ABORTED)
            context.set_details("set")
        if request == b"raise":
            raise ValueError("boom")
        return request

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        if request == b"abort":
            context.abort(StatusCode.NOT_FOUND, "gone")

    channel = await rig.open(Unary=unary_unary(handler), Stream=unary_stream(stream))
    unary, many = channel.unary_unary("/wire.test.Service/Unary"), channel.unary_stream("/wire.test.Service/Stream")
    assert await soon(unary(b"x")) == b"x"
    wanted = {
        b"abort": (StatusCode.NOT_FOUND, "gone"),
        b"set": (StatusCode.ABORTED, "set"),
        b"raise": (StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: boom"),
    }
    for request, end in wanted.items():
        error = await refusal(unary(request))
        assert (error.code(), error.details()) == end
    assert await soon(read_all(many(b""))) == ([b"1", b"2"], StatusCode.OK, "")
    assert await soon(read_all(many(b"abort"))) == ([b"1", b"2"], StatusCode.NOT_FOUND, "gone")
