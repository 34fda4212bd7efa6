"""A session: operations that see what the earlier ones of the same session wrote and saw.

Owns the token and which answers it covers (`_session`). Never sends: its client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kvclient._async.operations import AsyncOperations
from kvclient._backend import async_ as _backend
from kvclient._requests import OPERATION, RANGE, TXN, TXN_READ_ONLY, Call, token_bytes
from kvclient._session import SessionToken
from kvclient.errors import DeadlineExceeded, KvError
from kvclient.types import Consistency

if TYPE_CHECKING:
    from kvclient._async.client import AsyncClient

OVERLAPPING_MAX = 64
"""Operations of one session under way at once: every one may leave a token to be joined, and tokens have a maximum size."""


class AsyncSession(AsyncOperations):
    """The client's operations, with reads that default to session consistency: read your writes, and never go back.

    It costs nothing to open, holds nothing on the servers, and need not be closed. `token` can be handed to another process,
    whose `client.session(token)` goes on from there.
    """

    _default_read: ClassVar[Consistency] = Consistency.SESSION

    def __init__(self, client: AsyncClient, token: bytes = b"") -> None:
        self._client = client
        self._rng = client._rng
        self._token = SessionToken(token_bytes("token", token))
        self._mutex = _backend.Mutex()
        self._gate = _backend.Gate(OVERLAPPING_MAX)

    @property
    def token(self) -> bytes:
        """Covers everything that this session has written and seen. Opaque."""
        with self._mutex:
            return self._token.current()

    def deadline_of(self, timeout: float | None) -> float:
        """As the client's."""
        return self._client.deadline_of(timeout)

    async def _execute(self, call: Call, timeout: float | None) -> Any:
        deadline = self._client.deadline_of(timeout)
        if not await self._gate.enter(deadline):
            raise DeadlineExceeded(f"{OVERLAPPING_MAX} operations of this session are under way already", key=call.key)
        try:
            sent = self._attach(call)
            response = await self._client._execute_by(call, deadline)
            self._on_answer(call, sent, response)
            return response
        finally:
            self._gate.leave()

    async def _execute_many(self, calls: list[Call], timeout: float | None) -> list[Any | KvError]:
        deadline = self._client.deadline_of(timeout)
        responses: list[Any | KvError] = []
        for first in range(0, len(calls), OVERLAPPING_MAX):
            chunk = calls[first : first + OVERLAPPING_MAX]
            sent = [self._attach(call) for call in chunk]
            answers = await self._client._execute_many_by(chunk, deadline)
            for call, parts, answer in zip(chunk, sent, answers, strict=True):
                if not isinstance(answer, KvError):
                    self._on_answer(call, parts, answer)
            responses += answers
        return responses

    def _attach(self, call: Call) -> tuple[bytes, ...]:
        """Put the token into the request; returns its parts."""
        if call.method is OPERATION:
            return ()
        with self._mutex:
            parts = self._token.parts()
        call.request.session = b"".join(parts)
        return parts

    def _on_answer(self, call: Call, sent: tuple[bytes, ...], response: Any) -> None:
        if call.method is OPERATION:
            return
        if call.method is RANGE:
            served = response.served
        elif call.method is TXN or call.method is TXN_READ_ONLY:
            served = response.served[-1:]  # It covers all of them.
        else:
            served = (response.served,)
        with self._mutex:
            self._token.on_answer(sent, [one.session for one in served])
