"""A command's connection to the store: the SDK's blocking client, with failures in kvctl's words.

Owns how long a command waits for a cluster that is not there. What is read and written is `kvctl.key_commands`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvctl.command import Call
from kvctl.failures import Failure, by_reason, nobody_answers

if TYPE_CHECKING:
    from kvclient import Client, KvError

FIRST_CONNECT_S_MAX = 0.6
"""Where every endpoint refuses connections: time for a node that is just starting, and no longer."""
REFUSAL_S_MAX = 0.3
"""A refusal comes back at once; what takes longer is a slow network, not a refusal."""


@contextmanager
def open_client(call: Call) -> Iterator[Client]:
    """A client of the SDK; its errors become failures."""
    import kvclient

    endpoints = call.endpoints
    refused = all_refuse(endpoints)
    client = kvclient.connect_sync(f"kv://{','.join(endpoints)}?timeout={call.timeout_s}")
    try:
        client.open(timeout=min(call.timeout_s, FIRST_CONNECT_S_MAX) if refused else None)
        with client:
            yield client
    except kvclient.KvError as error:
        if refused and error.key is None and error.reason in ("CONNECT_FAILED", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
            raise nobody_answers(endpoints, "connection refused", "CONNECT_FAILED") from None
        raise _failure(error, call, endpoints) from None


def all_refuse(endpoints: Sequence[str]) -> bool:
    """Whether no endpoint takes a connection now. One that takes it, or says nothing, ends the search."""
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REFUSAL_S_MAX).close()
        except TimeoutError:
            return False
        except OSError:
            continue
        return False
    return True


def _failure(error: KvError, call: Call, endpoints: Sequence[str]) -> Failure:
    """What an exception of the SDK means."""
    if error.reason == "CONNECT_FAILED" and error.key is None:  # not even the cluster's map could be had
        return nobody_answers(endpoints, error.message.rstrip("."), error.reason)
    about = (
        [f"key '{call.encoding.encode(error.key)}'"] if error.key is not None and repr(error.key) not in error.message else []
    )
    about += [f"node {error.node}"] if error.node else []
    message = f"{', '.join(about)}: {error.message}" if about else error.message
    return by_reason(error.reason, message.rstrip("."), error.metadata)
