"""How much metadata a side takes: what is above its limit is refused by the receiver, and the connection goes on.

grpcio refuses at random between its soft limit (`grpc.max_metadata_size`, 8 KiB by default) and a hard one, which is 1.25 times
the soft one and at least 16 KiB; nothing is asked about sizes between the two.
"""

from __future__ import annotations

import grpc
import pytest

from tests.wire.pairs import GRPCIO, Context, Rig, path, refusal, soon, unary_unary

StatusCode = grpc.StatusCode
KB = 1000
MORE = [("grpc.max_metadata_size", 32768)]


async def answered(request: bytes, context: Context) -> bytes:
    """Sends as much metadata as the request says, early or late."""
    where, _, size = request.decode().partition(" ")
    if where == "initial":
        await context.send_initial_metadata((("large", "x" * int(size)),))
    if where == "trailing":
        context.set_trailing_metadata((("large", "x" * int(size)),))
    if where == "abort":
        await context.abort(StatusCode.NOT_FOUND, "", (("large", "x" * int(size)),))
    return str(max(len(value) for _, value in context.invocation_metadata())).encode()


@pytest.mark.parametrize(
    ("options", "fits", "refused"),
    [([], [1 * KB, 7 * KB], [20 * KB, 40 * KB]), (MORE, [12 * KB, 20 * KB, 30 * KB], [64 * KB])],
    ids=["default", "32 KiB"],
)
async def test_metadata_of_requests_has_the_limit_of_the_server(
    rig: Rig, options: list[tuple[str, int]], fits: list[int], refused: list[int]
) -> None:
    """What fits arrives whole; what does not is RESOURCE_EXHAUSTED by the server, and the next call is served.

    (grpcio's server takes a fifth of a second for each refusal: it is asked once.)
    """
    channel = await rig.open(M=unary_unary(answered), server={"options": options})
    method = channel.unary_unary(path("M"))
    for size in fits:
        assert await soon(method(b"", metadata=(("large", "x" * size),))) == str(size).encode()
        many = tuple((f"key-{number}", "y" * 200) for number in range(size // 280))
        await soon(method(b"", metadata=many))
    is_slow = rig.pair.server.name == GRPCIO
    for size in refused[:1] if is_slow else refused:
        assert (await refusal(method(b"", metadata=(("large", "x" * size),)))).code() is StatusCode.RESOURCE_EXHAUSTED
        if not is_slow:
            many = tuple((f"key-{number}", "y" * 200) for number in range(size // 200))
            assert (await refusal(method(b"", metadata=many))).code() is StatusCode.RESOURCE_EXHAUSTED
        assert await soon(method(b"", metadata=(("small", "x" * 300),))) == b"300"


@pytest.mark.parametrize(
    ("options", "fits", "refused"),
    [([], [1 * KB, 7 * KB], [20 * KB, 40 * KB]), (MORE, [12 * KB, 20 * KB, 30 * KB], [64 * KB])],
    ids=["default", "32 KiB"],
)
async def test_metadata_of_responses_has_the_limit_of_the_client(
    rig: Rig, options: list[tuple[str, int]], fits: list[int], refused: list[int]
) -> None:
    """Initial and trailing metadata alike: above the client's limit its call ends as RESOURCE_EXHAUSTED."""
    channel = await rig.open(M=unary_unary(answered), channel={"options": options})
    method = channel.unary_unary(path("M"))
    for size in fits:
        call = method(b"initial %d" % size)
        await soon(call)
        assert len((await call.initial_metadata())["large"]) == size
        call = method(b"trailing %d" % size)
        await soon(call)
        assert len((await call.trailing_metadata())["large"]) == size
        error = await refusal(method(b"abort %d" % size))
        assert error.code() is StatusCode.NOT_FOUND
        assert len(error.trailing_metadata()["large"]) == size
    for size in refused:
        for where in (b"initial", b"trailing", b"abort"):
            error = await refusal(method(b"%b %d" % (where, size)))
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED, (where, size)
        await soon(method(b""))
