"""Every bound of the transport, in one place: what a peer may make us hold, and how often it may make us work.

Two kinds of bounds. What is announced (SETTINGS, windows) a well-behaved peer keeps by itself; whoever breaks it has made a
protocol error. What is not announced (`…_PER_SECOND_MAX`, `…_BUFFERED_…`) is far above what any client needs; whoever passes it
loses its connection (ENHANCE_YOUR_CALM), and nobody else notices.
"""

from __future__ import annotations

KIB, MIB = 1024, 1024 * 1024

COUNTED = (
    *("calls", "connections", "memory", "message_size", "metadata", "streams"),
    *("control_frames", "pings", "resets", "settings", "window_updates"),
    *("frame_time", "handshake_time", "unread_output"),
)
"""Names of the limits that a server counts refusals by (`Server.refusals`): what asks for too much, comes too often, or takes
too long."""

# ---- frames and headers -----------------------------------------------------------------------------------------------

FRAME_SIZE_BYTES_MAX = 16 * KIB
"""Payload of a frame that we accept, and announce: the least that RFC 9113 permits. Larger messages come in several."""
SENT_FRAME_SIZE_BYTES_MAX = 64 * KIB
"""Payload of a frame that we send, where the peer permits it. Larger ones would let one message hold all others up."""
METADATA_SIZE_BYTES_MAX = 16 * KIB
"""Names, values and 32 bytes for each pair of one header list (RFC 9113 §6.5.2), unless `grpc.max_metadata_size` says more."""
HEADER_BLOCK_SIZE_BYTES_MAX = 256 * KIB
"""Of a header block as it comes. A call whose metadata are above their limit fails alone; above this, its connection ends."""
DETAILS_SIZE_BYTES_MAX = 4 * KIB
"""Of the words beside a status that we send: they must not make the trailers too large to be read."""
HEADER_FIELDS_MAX = 512
"""Fields of one header list."""
HEADER_MEMO_ENTRIES_MAX = 128
HEADER_MEMO_ENTRY_SIZE_BYTES_MAX = 512
HEADER_MEMO_FIELDS_MAX = 32
HEADER_MEMO_BEGINNINGS_MAX = 8
"""Header blocks (of so many fields), beginnings of blocks (of so many lengths) and fields that a connection remembers decoded.
A memo of each connection: nobody can fill another's."""

# ---- streams and messages ---------------------------------------------------------------------------------------------

MESSAGE_SIZE_BYTES_MAX = 4 * MIB
"""Of a received message, unless `grpc.max_receive_message_length` says otherwise. Checked before the message is buffered."""
UNLIMITED_MESSAGE_BYTES = 2**31 - 2**20
"""Of a received message where the limit was given up: what a window can let in."""
STREAMS_MAX = 1_024
"""Calls at once on one connection, unless `grpc.max_concurrent_streams` says otherwise; clients queue what is beyond."""
STREAM_WINDOW_BYTES = 256 * KIB
"""What one stream may have unread here. A message that is larger is let in whole when the connection has room (below)."""
CONNECTION_WINDOW_BYTES = 4 * MIB
"""Of a connection; given back on arrival, so that a stream which nobody reads holds up no other."""
LARGE_MESSAGES_SIZE_BYTES_MAX = 64 * MIB
"""Messages above the stream window that may be under way to us on one connection, together; the next ones wait their turn."""

# ---- memory -----------------------------------------------------------------------------------------------------------

WRITE_BUFFER_BYTES_MAX = 256 * KIB
"""Bytes in the socket's user-space buffer above which a connection sends no more DATA until the peer reads."""
OUTPUT_BATCH_BYTES_MAX = 256 * KIB
"""Output gathered in one turn of the event loop before it is written at once."""
CONTROL_OUTPUT_BYTES_MAX = 1 * MIB
"""Answers to control frames, headers and trailers that may wait for a peer that does not read."""
BUFFERED_BYTES_MAX = 1024 * MIB
"""What all connections of a server hold for their peers, in and out. Beyond it the connection that holds most is closed."""
MESSAGE_OVERHEAD_BYTES = 64
"""What a message counts for beyond its own size: tiny ones cost more than they contain."""
CALL_OVERHEAD_BYTES = 8 * KIB
"""What a call counts for while it is open, beyond its metadata (three times their size: as objects they are larger)."""
RETRY_BUFFER_BYTES_MAX = 256 * KIB
"""Requests of a stream that a client keeps, so that they can be sent again to another server when the first one goes away
without a look at them."""

# ---- frequency --------------------------------------------------------------------------------------------------------

WORK_PER_TURN_MAX = 64
READ_PER_TURN_BYTES_MAX = 64 * KIB
"""Frames and messages, and bytes, of one connection that are looked at before the other connections get their turn: two or
three milliseconds of work. As many messages are read from or written to one stream before others get theirs."""
WRITTEN_PER_TURN_BYTES_MAX = 512 * KIB
"""Bytes that one connection sends, of what waited for a window or the socket, before others get their turn."""
CONTROL_FRAMES_PER_SECOND_MAX = 2_000
"""PING, PRIORITY, CONTINUATION, empty DATA and unknown frames, of one connection."""
SETTINGS_PER_SECOND_MAX = 100
"""Each may touch every stream; no peer sends more than a few in its life."""
LATE_FRAME_BYTES = 16
LATE_BYTES_MAX = 16 * MIB
"""A stream that we close may still receive what its window permits, and a frame that ends it (which counts as so many bytes).
So much is expected at most; beyond, frames of closed streams count as control frames."""
WINDOW_UPDATES_PER_SECOND_MAX = 200_000
"""grpcio's client sends two for each call that it makes, and there may be tens of thousands of calls."""
RESET_SECONDS_MIN = 0.05
RESETS_PER_SECOND_MAX = 2_000
"""Calls that the peer ended by RST_STREAM before they were answered (CVE-2023-44487, "rapid reset"), or made us end by a fault
of its own (CVE-2025-8671, "MadeYouReset"). Calls that have lived for a while do not count: their deadlines passed."""

# ---- time and number --------------------------------------------------------------------------------------------------

CONNECTIONS_MAX = 8_192
"""Of one server. A connection beyond is closed at once."""
HANDSHAKE_SECONDS_MAX = 10.0
"""From accept to the end of the client's preface and first SETTINGS, TLS included."""
FRAME_SECONDS_MAX = 20.0
"""From the first byte of a frame to its last, and from a HEADERS frame to the last of its CONTINUATIONs."""
UNKNOWN_METHOD_SECONDS = 0.005
"""How long a call of no method that is not complete waits for its refusal: grpcio's client takes one that comes while it still
writes its first message for a failure of its own."""
LINGER_SECONDS_MAX = 1.0
"""How long the stream of an answered call waits for the rest of its request, which is not kept."""
CLOSE_SECONDS_MAX = 5.0
"""What a closing connection gets to take what was written to it."""
TIMER_SECONDS_MAX = 10.0**8
"""A call with a longer `grpc-timeout` (there may be 8 digits of hours) ends after this: three years."""
