"""gRPC's channel arguments, as far as they mean something here. What is not known is ignored, as everywhere in gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvwire import limits


class Options:
    """The arguments of a server or a channel, with their defaults. Sizes in bytes, times in seconds; None: no limit."""

    def __init__(self, options: Iterable[tuple[str, Any]] | None) -> None:
        given = dict(reversed(tuple(options or ())))  # (Of one that is given twice, the first counts.)

        def seconds(name: str, default_ms: float) -> float:
            return float(given.get(name, default_ms)) / 1000.0

        receive = int(given.get("grpc.max_receive_message_length", limits.MESSAGE_SIZE_BYTES_MAX))
        self.receive_size_max: int = receive if receive >= 0 else limits.UNLIMITED_MESSAGE_BYTES
        send = int(given.get("grpc.max_send_message_length", -1))
        self.send_size_max: int | None = send if send >= 0 else None
        self.metadata_size_max = int(given.get("grpc.max_metadata_size", limits.METADATA_SIZE_BYTES_MAX))
        self.streams_max = int(given.get("grpc.max_concurrent_streams", limits.STREAMS_MAX))
        self.reuse_port = bool(given.get("grpc.so_reuseport", 1))
        keepalive_default = 2**31 - 1
        self.keepalive_interval = seconds("grpc.keepalive_time_ms", keepalive_default)
        self.keepalive_timeout = seconds("grpc.keepalive_timeout_ms", 20_000)
        self.keepalive_without_calls = bool(given.get("grpc.keepalive_permit_without_calls", 0))
        self.ping_interval_min = seconds("grpc.http2.min_ping_interval_without_data_ms", 300_000)
        self.ping_strikes_max = int(given.get("grpc.http2.max_ping_strikes", 2))
        self.backoff_initial = seconds("grpc.initial_reconnect_backoff_ms", 1_000)
        self.backoff_max = seconds("grpc.max_reconnect_backoff_ms", 120_000)
        self.connect_timeout = seconds("grpc.min_reconnect_backoff_ms", 20_000)
        self.user_agent = str(given.get("grpc.primary_user_agent", ""))
        self.authority = str(given.get("grpc.default_authority", ""))
        self.target_name = str(given.get("grpc.ssl_target_name_override", ""))

    @property
    def keeps_alive(self) -> bool:
        """Whether silent peers are asked whether they live."""
        return self.keepalive_interval < 2_000_000
