"""HTTP/2 for gRPC without I/O: bytes in, calls of stream methods out; calls of stream methods in, bytes out (RFC 9113).

Owns the frames, the settings, the flow control of the connection, and who may make it work how often. Knows no sockets, no
event loop and no clock: `receive` is told the time, `take` gives what is to be written, and `wants_output` is called when there
is something to take. `ServerConnection` and `ClientConnection` (`roles`) say how streams begin.

A peer that breaks the protocol ends its connection: GOAWAY with the reason, and every stream is told. Invariants:

- Nothing is parsed twice, and nothing is kept of a frame but the stream's partial message.
- What we send never exceeds the peer's windows. (What it sends is checked stream by stream; the connection's window is given
  back as its bytes arrive, so it says nothing about memory.)
- After `closed` is set nothing is delivered and nothing is sent but what `take` still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kvwire import frames, limits
from kvwire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_SIZE,
    HEADERS,
    PADDED,
    PING,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ProtocolError,
    read_head,
)
from kvwire.frequency import Frequency
from kvwire.header_block import BLOCK_WORK, Field, HeaderDecoder, HeadersTooLarge
from kvwire.memory import Memory
from kvwire.output import Output
from kvwire.room import Room
from kvwire.stream import Stream
from kvwire.turns import Turns

AnyStream = TypeVar("AnyStream", bound=Stream)
PRIORITY_SIZE = 5
WORK_OF_BYTES = 9
"""Settings (512 bytes) that count as one more frame of work."""


class Connection(Output, Generic[AnyStream]):
    """One connection, of either role."""

    def __init__(self, memory: Memory, metadata_size_max: int, announced: tuple[tuple[int, int], ...]) -> None:
        """`announced`: settings of the role, beside those that are always the same."""
        super().__init__()
        self.streams: dict[int, AnyStream] = {}
        self.closed: str | None = None
        """Why the connection carries nothing any more."""
        self.broken: str | None = None
        """What the peer did wrong, where that is why it is closed."""
        self.is_settled = False
        """Whether the peer's first SETTINGS have come."""
        self.held, self.holds_nothing = 0, False
        self.memory, self._metadata_size_max = memory, metadata_size_max
        self._decoder = HeaderDecoder(metadata_size_max, self._read_fields)
        self._block_size_max = max(4 * metadata_size_max, limits.HEADER_BLOCK_SIZE_BYTES_MAX)
        self._tail = b""
        self._block: tuple[int, bytearray, bool] | None = None
        self._frame_began: float | None = None
        self._block_began = 0.0
        self.work = 0
        """Frames and messages looked at in this turn."""
        self.has_more = False
        """Whether `resume` should follow, once the other connections have had their turn."""
        self.send_window = frames.WINDOW_DEFAULT
        self.peer_stream_window = frames.WINDOW_DEFAULT
        self.peer_streams_max = frames.STREAM_ID_MAX
        self.last_stream = 0
        """Highest stream id that the peer has opened."""
        self.goaway_sent: int | None = None
        self._unreturned = 0
        self.room = Room()
        self.turns = Turns(self)
        self.postponed: dict[Stream, None] = {}
        """Streams with messages that came and were not looked at yet."""
        self.frequency = Frequency()
        self.received_at = 0.0
        """When bytes came last."""
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            frames.PRIORITY: self._on_priority,
            RST_STREAM: self._on_reset,
            SETTINGS: self._on_settings,
            PUSH_PROMISE: self._on_push_promise,
            PING: self._on_ping,
            GOAWAY: self._on_goaway,
            WINDOW_UPDATE: self._on_window_update,
            CONTINUATION: self._on_continuation,
        }
        self._begin(announced)

    def _begin(self, announced: tuple[tuple[int, int], ...]) -> None:
        first = (
            (frames.HEADER_TABLE_SIZE, 0),
            (frames.INITIAL_WINDOW_SIZE, limits.STREAM_WINDOW_BYTES),
            (frames.MAX_HEADER_LIST_SIZE, self._metadata_size_max),
            *announced,
        )
        credit = limits.CONNECTION_WINDOW_BYTES - frames.WINDOW_DEFAULT
        self.put(frames.settings(first) + frames.window_update(0, credit))

    # ---- what the roles do -------------------------------------------------------------------------------------------

    def _read_fields(self, fields: list[Field], begun: Any) -> Any:
        """What the role makes of a header list, or (`begun`) of the rest of one; it has a `size` and a `malformed`."""
        raise NotImplementedError

    def _on_headers(self, stream_id: int, made: Any, ended: bool) -> None:
        raise NotImplementedError

    def _on_headers_too_large(self, stream_id: int, error: HeadersTooLarge, ended: bool) -> None:
        raise NotImplementedError

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise NotImplementedError

    def _is_idle(self, stream_id: int) -> bool:
        """Whether nobody has used a stream id yet."""
        raise NotImplementedError

    def set_writable(self, is_writable: bool) -> None:
        """The socket takes more, or it does not."""
        self.is_writable = is_writable
        self.turns.pump()

    # ---- bytes in ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Takes what came from the peer, at the monotonic time `now`. Never raises: a broken protocol closes the connection."""
        if self.closed is not None:
            return
        self.received_at = now
        self.frequency.tick(now)
        tail = self._tail
        if len(tail) >= HEADER_SIZE and not self.has_more:
            cut = HEADER_SIZE + (read_head(tail, 0)[0] >> 8) - len(tail)
            if 0 < cut < len(data):  # Only the frame that was cut is put together.
                self._parse(tail + data[:cut], now)
                if self.closed is None:
                    self._parse(data, now, cut)
                return
        self._parse(tail + data if tail else data, now)

    def resume(self, now: float) -> None:
        """Goes on with what `receive` left."""
        if self.closed is None:
            self._parse(self._tail, now)

    def _parse(self, data: bytes, now: float, position: int = 0) -> None:
        self.work, self.has_more = 0, False
        try:
            for stream in list(self.postponed):
                stream.go_on()
            if self.closed is None:
                self._frames(data, position)
        except ProtocolError as error:
            self.fail(error.code, error.message, error.limit)
            return
        if not self._tail or self.has_more:
            self._frame_began = None
        elif self._frame_began is None or len(self._tail) < len(data):
            self._frame_began = now  # (Whoever ends frames makes progress.)

    def unfinished_for(self, now: float) -> float:
        """Seconds since the frame or the header block began that is not complete yet."""
        began = now if self._frame_began is None else self._frame_began
        return now - min(began, self._block_began if self._block is not None else now)

    def _frames(self, data: bytes, position: int) -> None:
        end, streams, blocks = len(data), self.streams, self._decoder.blocks
        while end - position >= HEADER_SIZE:
            if self.work >= limits.WORK_PER_TURN_MAX:
                self.has_more = True
                break
            self.work += 1
            word, flags, stream_id = read_head(data, position)
            size, kind = word >> 8, word & 0xFF
            start = position + HEADER_SIZE
            if size > limits.FRAME_SIZE_BYTES_MAX:
                raise ProtocolError(
                    frames.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {limits.FRAME_SIZE_BYTES_MAX} were announced"
                )
            if end - start < size:
                break
            stream_id &= frames.STREAM_ID_MAX
            position = start + size
            payload = data[start:position]
            if self._block is not None and (kind != CONTINUATION or stream_id != self._block[0]):
                raise ProtocolError(frames.PROTOCOL_ERROR, "a header block is interrupted by another frame")
            if kind == DATA:
                self._unreturned += size
                if self._unreturned >= limits.CONNECTION_WINDOW_BYTES // 4:
                    self.put(frames.window_update(0, self._unreturned))
                    self._unreturned = 0
                if flags & PADDED:
                    payload = frames.without_padding(payload)
                stream = streams.get(stream_id)
                if stream is None:
                    self._on_data_of_no_stream(stream_id, size)
                else:
                    if not payload and not flags & END_STREAM:
                        self.frequency.on_control()
                    stream.receive(payload, size, flags & END_STREAM != 0)
                    if flags & PADDED:
                        stream.replenish()
            elif kind == HEADERS:
                if flags & (PADDED | PRIORITY_FLAG):
                    payload = self._bare_block(payload, flags, stream_id)
                if flags & END_HEADERS:
                    made = blocks.get(payload)
                    if made is not None:
                        self._on_headers(stream_id, made, flags & END_STREAM != 0)
                    else:
                        self._on_block(stream_id, payload, flags & END_STREAM != 0)
                else:
                    self._block = (stream_id, bytearray(payload), flags & END_STREAM != 0)
                    self._block_began = self.received_at
                    self.hold(len(payload))
            else:
                handler = self._handlers.get(kind)
                if handler is None:
                    self.frequency.on_control()  # An unknown kind means nothing (§4.1).
                elif not self.is_settled and kind != SETTINGS:
                    raise ProtocolError(frames.PROTOCOL_ERROR, "the first frame is no SETTINGS")
                else:
                    handler(flags, stream_id, payload)
            if self.closed is not None:
                return
        self._tail = data[position:]

    def _on_data_of_no_stream(self, stream_id: int, size: int) -> None:
        if self._is_idle(stream_id):
            raise ProtocolError(frames.PROTOCOL_ERROR, f"data on stream {stream_id}, which nobody opened")
        self.frequency.on_late(size)

    def _bare_block(self, payload: bytes, flags: int, stream_id: int) -> bytes:
        if flags & PADDED:
            payload = frames.without_padding(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < PRIORITY_SIZE:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "HEADERS with half a priority")
            if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MAX == stream_id:
                raise ProtocolError(frames.PROTOCOL_ERROR, f"stream {stream_id} depends on itself")
            payload = payload[PRIORITY_SIZE:]
        return payload

    def _on_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        if not self.is_settled:
            raise ProtocolError(frames.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        try:
            made, cost = self._decoder.read(block)
        except HeadersTooLarge as error:
            self.work += len(block) >> BLOCK_WORK
            self._on_headers_too_large(stream_id, error, ended)
            return
        self.work += cost
        self._on_headers(stream_id, made, ended)

    # ---- control frames ----------------------------------------------------------------------------------------------

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_control()
        if self._block is None:
            raise ProtocolError(frames.PROTOCOL_ERROR, "CONTINUATION of no header block")
        block = self._block[1]
        block += payload
        self.hold(len(payload))
        if self._block is None:
            return
        if len(block) > self._block_size_max:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, f"a header block above {self._block_size_max} bytes", "metadata")
        if flags & END_HEADERS:
            _, _, ended = self._block
            self._block = None
            self.hold(-len(block))
            self._on_block(stream_id, bytes(block), ended)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_control()
        if not stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != PRIORITY_SIZE:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(frames.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if self._is_idle(stream_id):
            raise ProtocolError(frames.PROTOCOL_ERROR, f"RST_STREAM of stream {stream_id}, which nobody opened")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.frequency.on_late()
            return
        if not stream.discards and self.received_at - stream.began < limits.RESET_SECONDS_MIN:
            self.frequency.on_reset()
        stream.on_reset(frames.read_word(payload), "the peer reset the stream")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_settings()
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & ACK:
            if payload:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
            self._decoder.forget_table()
            return
        if len(payload) % 6:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        for key, value in dict(frames.read_settings(payload)).items():  # The last word on each counts.
            if key == frames.INITIAL_WINDOW_SIZE:
                self._set_stream_window(value)
            elif key == frames.MAX_FRAME_SIZE:
                if not 16_384 <= value <= 16_777_215:
                    raise ProtocolError(frames.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}")
                self.frame_size_max = min(value, limits.SENT_FRAME_SIZE_BYTES_MAX)
            elif key == frames.MAX_CONCURRENT_STREAMS:
                self.peer_streams_max = value
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ProtocolError(frames.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {value}")
        self.is_settled = True
        self.put(frames.frame(SETTINGS, ACK, 0))
        self.work += len(payload) >> WORK_OF_BYTES
        self.turns.pump()

    def _set_stream_window(self, size: int) -> None:
        if size > frames.WINDOW_MAX:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {size}")
        self.work += len(self.streams)
        change, self.peer_stream_window = size - self.peer_stream_window, size
        for stream in self.streams.values():
            stream.send_window += change  # It may become negative (§6.9.2).
            if stream.send_window > frames.WINDOW_MAX:
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, f"the window of stream {stream.id} overflows")
            if stream.is_blocked:
                self.turns.add(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_control()
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING of a wrong size")
        if not flags & ACK:  # (An answer says that the peer lives, as anything else does.)
            self._on_pinged()
            self.put(frames.frame(PING, ACK, 0, payload))

    def _on_pinged(self) -> None:
        """A peer asks whether we live: the role may count how often."""

    def ping(self, payload: bytes) -> None:
        """Asks whether the peer lives: anything that it sends is an answer. `payload`: 8 bytes."""
        self.put(frames.frame(PING, 0, 0, payload))

    # ---- flow control ------------------------------------------------------------------------------------------------

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_window_update()
        if len(payload) != 4:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = frames.read_word(payload) & frames.WINDOW_MAX
        if not stream_id:
            self.send_window += increment
            if not increment:
                raise ProtocolError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if self.send_window > frames.WINDOW_MAX:
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, "the connection's window overflows")
            self.turns.pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, f"WINDOW_UPDATE of stream {stream_id}, which nobody opened")
            return
        stream.send_window += increment
        if not increment or stream.send_window > frames.WINDOW_MAX:
            code = frames.FLOW_CONTROL_ERROR if increment else frames.PROTOCOL_ERROR
            self.refuse(stream_id, code, "the peer sent a senseless WINDOW_UPDATE")
        elif stream.is_blocked:
            self.pump(stream)

    def pump(self, stream: Stream) -> None:
        """Sends what a stream holds back, as far as it gets, in turn with the others."""
        self.turns.add(stream)
        self.turns.pump()

    def hold(self, size: int) -> None:
        """So many bytes more (negative: less) are kept for the peer."""
        if self.holds_nothing:
            return
        self.held += size
        self.memory.add(size)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def forget(self, stream: Any) -> None:
        """A stream is closed."""
        self.streams.pop(stream.id, None)
        if stream.remote_ended and stream.local_ended:
            return  # Nothing of it is on its way.
        self.frequency.expect_late(0 if stream.remote_ended else stream.receive_window)

    def refuse(self, stream_id: int, code: int, why: str) -> None:
        """Ends a stream for a fault of the peer's; too many of them end the connection. Raises `ProtocolError`."""
        self.put(frames.rst_stream(stream_id, code))
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.on_reset(code, why)
        else:
            self.frequency.expect_late(limits.STREAM_WINDOW_BYTES)
        self.frequency.on_reset()

    def fail(self, code: int, message: str, limit: str = "") -> None:
        """The peer is told why, and the connection is over; `limit`: of `limits.COUNTED`, where it passed one."""
        if self.closed is None:
            self.broken = message
            last = self.last_stream if self.goaway_sent is None else self.goaway_sent  # Never more than was said before.
            self.put(frames.goaway(last, code, message.encode()[:256]))
            self.lose(message)

    def give_up(self, why: str) -> None:
        """Ends a connection that asks for too much."""
        self.fail(frames.ENHANCE_YOUR_CALM, why, "memory")

    def lose(self, why: str) -> None:
        """The connection is over: every stream is told."""
        if self.closed is not None:
            return
        self.closed = why
        for stream in list(self.streams.values()):
            stream.on_reset(None, why)
        self._tail, self._block, self.has_more = b"", None, False
        self.hold(-self.held)
        self.holds_nothing = True
        self.wants_output()
