"""`grpc.aio.ServicerContext` over one call: what a handler may ask, and say, about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from kvwire import compression
from kvwire.metadata import encode_metadata
from kvwire.method import Method
from kvwire.request_reader import read_request

if TYPE_CHECKING:
    from kvwire.server_call import ServerCall

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _check_words(details: Any) -> None:
    if details is not None and not isinstance(details, str):
        raise TypeError(f"details must be str, not {type(details).__name__}")


class ServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """See grpc.aio's documentation; `status`, `message` and `trailing` are what the handler has said so far."""

    method: Method | None = None
    message = ""
    trailing: Any = ()
    _code: Any = None
    _aborted = False

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    # ---- for the call ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> int:
        """The number of the status that the handler chose."""
        code = self._code
        number = 0 if code is None else code if isinstance(code, int) else code.value[0]
        return number if number in _CODES else 2

    @property
    def failed(self) -> bool:
        """Whether the handler chose another status than OK."""
        return self._code is not None and self.status != 0

    @property
    def is_untouched(self) -> bool:
        """Whether the handler said nothing but its response."""
        call = self._call
        return (
            not self.trailing and not call.headers_sent and not call.initial_metadata and call.encoding == compression.IDENTITY
        )

    # ---- grpc.aio.ServicerContext ------------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message of the request; `grpc.aio.EOF` at its end."""
        self._check()
        assert self.method is not None
        return await read_request(self._call, self.method)

    async def write(self, message: Any) -> None:
        """Sends a response, and waits until it has left."""
        self._check()
        assert self.method is not None
        await self._call.write(self.method, message)

    def _check(self) -> None:
        if self._call.is_over and not self._call.is_cancelled:
            raise grpc.aio.UsageError("RPC already finished.")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Sends the initial metadata now. Raises UsageError when they were sent before."""
        self._check()
        if self._call.headers_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._call.initial_metadata = encode_metadata(initial_metadata)
        if not self._call.is_over:
            self._call.send_headers()

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with a status; raises always."""
        if self._aborted:
            raise grpc.aio.UsageError("Abort already called!")
        if code in (0, grpc.StatusCode.OK):
            raise ValueError("a call cannot be aborted with OK")
        _check_words(details)
        self._aborted = True
        self._code = code
        self.message = details or ""
        if trailing_metadata:
            self.trailing = trailing_metadata
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with a status object; raises always."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Metadata that go out with the status."""
        self.trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        """What was set."""
        return self.trailing

    def invocation_metadata(self) -> Any:
        """The caller's metadata."""
        return self._call.head.metadata

    def set_code(self, code: Any) -> None:
        """The status, where it is not OK."""
        self._code = code

    def code(self) -> Any:
        """What was set."""
        return _CODES.get(self._code, self._code) if isinstance(self._code, int) else self._code

    def set_details(self, details: str) -> None:
        """Words beside the status."""
        _check_words(details)
        self.message = details or ""

    def details(self) -> str:
        """What was set."""
        return self.message

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compresses the responses, where the caller can read that. Raises RuntimeError once headers are sent."""
        if self._call.headers_sent:
            raise RuntimeError("compression must be set before anything is sent")
        self._call.server.compress(self._call, compression)

    def disable_next_message_compression(self) -> None:
        """Leaves the next message as it is: for secrets beside text that others chose (CRIME, BREACH)."""
        self._call.next_is_plain = True

    def peer(self) -> str:
        """The caller's address, as "ipv4:127.0.0.1:1234"."""
        return str(self._call.link.peer)

    def peer_identities(self) -> Iterable[bytes] | None:
        """Names in the caller's certificate; None without one."""
        key = self.peer_identity_key()
        return self.auth_context().get(key) if key else None

    def peer_identity_key(self) -> str | None:
        """Which entry of `auth_context` holds `peer_identities`."""
        context = self.auth_context()
        return next((key for key in ("x509_subject_alternative_name", "x509_common_name") if key in context), None)

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What is known about how the caller is connected."""
        found: Mapping[str, Iterable[bytes]] = self._call.link.auth_context
        return found

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Seconds to the deadline; None without one."""
        deadline = self._call.deadline
        return None if deadline is None else max(0.0, deadline - self._call.server.loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """`callback(context)` follows when the call is over."""
        if self._call.callbacks is None:
            self._call.callbacks = []
        self._call.callbacks.append(callback)

    def cancelled(self) -> bool:
        """Whether the caller has gone, or the deadline passed."""
        return self._call.is_cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        return self._call.is_over
