"""What a range request means, and how its rows are shown; pure."""

from __future__ import annotations

from kvapi.v1 import kv_pb2
from kvnode.routing.local import Seen
from kvnode.shard.evaluate import prefix_interval


def range_bounds(request: kv_pb2.RangeRequest) -> tuple[bytes, bytes | None]:
    """The [start, end) that prefix, bounds and page token mean together; end None: no bound."""
    start, end = request.start, request.end or None
    if request.prefix:
        start = max(start, request.prefix)
        after = prefix_interval(request.prefix).end
        if after is not None:
            end = after if end is None else min(end, after)
    if request.page_token:
        start = max(start, request.page_token + b"\0")
    return start, end


def key_value(key: bytes, seen: Seen, keys_only: bool) -> kv_pb2.KeyValue:
    """One key of a page."""
    version = seen.version
    return kv_pb2.KeyValue(
        key=key,
        value=b"" if keys_only else version.value or b"",
        revision=version.revision,
        create_revision=version.create_revision,
        version=version.version,
        hlc=version.hlc,
        tentative=seen.tentative is not None,
    )
