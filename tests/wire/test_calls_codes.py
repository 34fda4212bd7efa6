"""How calls end: every status code, every way a handler sets it, and what reaches the caller."""

from __future__ import annotations

import grpc
import pytest

from tests.wire.pairs import Context, Rig, refusal

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


async def test_abort_with_every_code_reaches_the_caller(rig: Rig) -> None:
    """Code and details are those that the handler gave, for all sixteen codes of failure."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(CODES[request[0]], f"details {request[0]}")

    call = await rig.unary_unary(handler)
    for index, code in enumerate(CODES):
        error = await refusal(call(bytes([index])))
        assert (error.code(), error.details()) == (code, f"details {index}")


@pytest.mark.parametrize(
    "details", ["", "plain", "100 % sure %41", "naïve → 日本語 🎈", "line\nbreak\ttab", " spaces ", "x" * 4000]
)
async def test_details_of_any_text_arrive_unchanged(rig: Rig, details: str) -> None:
    """Details are percent-encoded on their way, and decoded again."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, details)

    call = await rig.unary_unary(handler)
    assert (await refusal(call(b""))).details() == details
