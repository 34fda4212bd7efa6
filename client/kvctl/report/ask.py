"""What a live cluster says: latency, availability, traces, and who is a member.

Owns the questions. Each has its own share of the time, so that a node that hangs does not cost the others their word; the
traces come last, because to answer that question takes a node the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvapi.v1 import cluster_pb2, message_pb2
from kvctl.admin import Admin
from kvctl.availability.ask import collect
from kvctl.availability.merge import availability
from kvctl.availability.model import Availability
from kvctl.failures import Failure
from kvctl.report.model import Member
from kvctl.traces.latency import Snapshot, read_latency
from kvctl.traces.read import Reading, read_live
from kvctl.traces.store import TraceStore

QUESTIONS = 4


@dataclass(slots=True)
class Live:
    """The answers."""

    cluster_id: str = ""
    members: Sequence[Member] = ()
    latency: Snapshot = field(default_factory=Snapshot)
    availability: Availability | None = None
    silent: dict[str, str] = field(default_factory=dict)
    """Who did not answer, or not to everything, and why."""


def ask(endpoints: Sequence[str], timeout_s: float, store: TraceStore) -> Live:
    """Ask all nodes; their spans go to `store`. Raises Failure when no node answers."""
    each_s = timeout_s / QUESTIONS
    live = Live()
    with Admin(endpoints, each_s) as admin:
        shape = admin.topology()
    live.cluster_id, live.members = shape.cluster_id, _members(shape)
    addresses = [member.address for member in shape.members]
    with Admin(endpoints, each_s) as admin:
        live.availability = _availability(admin, live.silent)
    with Admin(addresses, each_s) as admin:
        live.latency = read_latency(admin)
    reading = Reading()
    with Admin(addresses, each_s) as admin:
        store.add(read_live(admin, reading))
    live.silent = reading.silent | live.latency.silent | live.silent
    return live


def _members(shape: cluster_pb2.TopologyResponse) -> list[Member]:
    return [
        Member(
            member.name,
            member.address,
            message_pb2.NodeState.Name(member.state).removeprefix("NODE_STATE_"),
            member.incarnation,
            sum(member.name in shard.replicas for shard in shape.shards),
            [shard.shard for shard in shape.shards if shard.leader == member.name],
        )
        for member in shape.members
    ]


def _availability(admin: Admin, silent: dict[str, str]) -> Availability | None:
    """None: nobody told a record."""
    try:
        told = collect(admin)
    except Failure:
        return None  # whoever answers nothing is named by the other questions
    silent |= told.missing
    return availability(told.answers, told.missing, told.replicas)
