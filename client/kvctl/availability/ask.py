"""The nodes' records, from a live cluster.

Owns whom to ask. Who does not answer is named, and no error, as long as anybody does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvapi.v1 import cluster_pb2
from kvctl.failures import Failure

if TYPE_CHECKING:
    from kvctl.admin import Admin


@dataclass
class Collected:
    """What came back."""

    answers: list[cluster_pb2.AvailabilityResponse] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """By node: why it did not answer."""
    replicas: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """By shard: the nodes that hold it."""


def collect(admin: Admin) -> Collected:
    """Asks every member at once. Raises the first Failure when not one answers."""
    _, known = admin.members()
    names = {member.address: member.name for member in known.members}
    request = cluster_pb2.AvailabilityRequest()
    answers = admin.each(list(names), lambda stub, timeout_s: stub.Availability.future(request, timeout=timeout_s))
    collected, failures = Collected(), []
    for address, answer in answers.items():
        if isinstance(answer, Failure):
            refused = "connection refused" in answer.message.lower()  # gRPC says it with addresses, twice
            collected.missing[names[address]] = f"{address} refuses connections" if refused else answer.message
            failures.append(answer)
        else:
            collected.answers.append(answer)
    if not collected.answers:
        raise failures[0]
    collected.replicas = {place.shard: tuple(place.replicas) for place in admin.topology().shards}
    return collected
