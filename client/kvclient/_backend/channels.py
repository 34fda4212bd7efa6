"""How both kinds of channel are set up.

Owns the gRPC options. A connection of its own for every client (`use_local_subchannel_pool`), so that two clients in a process
do not share one socket; retries off, because only the SDK knows what is definite; answers of any size, because the lane bounds
what is asked for.
"""

from __future__ import annotations

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A restarted node is used soon: 0.1 s, growing to 0.5 s, since the others may be restarted right after it; and an attempt
    # to connect lasts at most 1 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A peer that vanished without a word is noticed after 10 s + 3 s, while calls are under way.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_send_message_length", 8 * 1024 * 1024),
    ("grpc.max_receive_message_length", -1),
)


class ChannelClosed(Exception):
    """The client closed the channel: `sent` says whether the call may have left."""

    def __init__(self, sent: bool) -> None:
        super().__init__("the client is closed")
        self.sent = sent
