"""`kvctl locate | status | members | topology | transfer | superseded | events`: the cluster as operators see it.

Owns how `kvapi.v1.Cluster`'s answers look. Keys and values are `kvctl.key_commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl import stats
from kvctl.command import Call, command
from kvctl.failures import Failure
from kvctl.output import (
    duration_text,
    enum_name,
    hlc_time,
    print_json,
    print_table,
    size_text,
    time_text,
)

if TYPE_CHECKING:
    from kvapi.v1 import cluster_pb2
    from kvctl.admin import Admin

PANEL = "Cluster"
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many, the latest first.")]


def open_admin(call: Call) -> Admin:
    """A conversation with the cluster that the options name."""
    from kvctl.admin import Admin  # gRPC is slow to import; --help does without

    return Admin(call.endpoints, call.timeout_s)


def as_plain(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON values: all fields, by their proto names; 64-bit numbers as numbers."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            plain[field.name] = dict(value)
        elif field.is_repeated:
            plain[field.name] = [as_plain(item) if field.message_type else item for item in value]
        elif field.message_type is not None:
            plain[field.name] = as_plain(value)
        elif field.has_presence and not message.HasField(field.name):
            plain[field.name] = None
        elif field.enum_type is not None:
            number = field.enum_type.values_by_number.get(value)
            plain[field.name] = number.name if number is not None else value
        elif field.type == field.TYPE_BYTES:
            continue  # shown by the command, in the encoding asked for
        else:
            plain[field.name] = value
    return plain


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "locate", takes_bytes=True, panel=PANEL)(locate)
    command(app, "status", panel=PANEL)(status)
    command(app, "members", panel=PANEL)(members)
    command(app, "topology", panel=PANEL)(topology)
    command(app, "transfer", panel=PANEL)(transfer)
    command(app, "superseded", takes_bytes=True, panel=PANEL)(superseded)
    command(app, "events", panel=PANEL)(events)
    stats.register(app, PANEL)


def _lead_first(admin: Admin, shape: cluster_pb2.TopologyResponse, shard: int) -> None:
    """Ask a shard's leader first from now on, then its other replicas; an unknown shard: whoever is there."""
    addresses = {member.name: member.address for member in shape.members}
    place = next((place for place in shape.shards if place.shard == shard), None)
    if place is not None:
        names = sorted(place.replicas, key=lambda name: name != place.leader)
        admin.endpoints = [addresses[name] for name in names if name in addresses] or admin.endpoints


def locate(call: Call, key: KeyArgument) -> None:
    """Show where a key lives: its shard, the shard's leader, the replicas."""
    from kvapi.v1 import cluster_pb2

    request = cluster_pb2.LocateRequest(key=call.encoding.decode(key, "KEY"))
    with open_admin(call) as admin:
        _, answer = admin.any(lambda stub, timeout_s: stub.Locate(request, timeout=timeout_s))
    if call.as_json:
        print_json(call.encoding.json_field("key", request.key) | as_plain(answer))
        return
    shown = call.encoding.encode(request.key)
    rows = [[shown, answer.shard, answer.leader or "none", ", ".join(answer.replicas), answer.epoch]]
    print_table(["key", "shard", "leader", "replicas", "epoch"], rows, right="shard epoch")


def status(
    call: Call,
    shards: Annotated[bool, typer.Option("--shards", "-s", help="Also each node's part in each shard.")] = False,
) -> None:
    """Show every node: state, leads, sizes, memory. Nodes that do not answer are shown as such."""
    from kvapi.v1 import cluster_pb2

    with open_admin(call) as admin:
        _, known = admin.members()
        names = {member.address: member.name for member in known.members}
        answers = admin.each(
            list(names), lambda stub, timeout_s: stub.Status.future(cluster_pb2.StatusRequest(), timeout=timeout_s)
        )
    if call.as_json:
        print_json({"nodes": [status_json(names[address], address, answer) for address, answer in answers.items()]})
        return
    print_status([(names[address], address, answer) for address, answer in answers.items()])
    if shards:
        print()
        print_shards([answer for answer in answers.values() if not isinstance(answer, Failure)])


def status_json(name: str, address: str, answer: cluster_pb2.StatusResponse | Failure) -> dict[str, Any]:
    """One node's status for programs; state hashes in hexadecimal."""
    if isinstance(answer, Failure):
        return {"name": name, "address": address, "answers": False, "error": answer.message}
    plain = as_plain(answer)
    for shard in plain["shards"]:
        shard["state_hash"] = f"{shard['state_hash']:016x}"
    return {"name": name, "address": address, "answers": True, **plain}


def print_status(nodes: list[tuple[str, str, cluster_pb2.StatusResponse | Failure]]) -> None:
    """One row a node."""
    from kvapi.v1 import kv_pb2, message_pb2

    rows: list[list[object]] = []
    for name, address, answer in nodes:
        if isinstance(answer, Failure):
            rows.append([name, address, "no answer", *[""] * 9])
            continue
        state = enum_name(message_pb2.NodeState.Name(answer.node.state), "NODE_STATE_")
        leads = sum(shard.role == kv_pb2.ROLE_LEADER for shard in answer.shards)
        pending = sum(shard.pending_eventual for shard in answer.shards)
        sizes = [size_text(size) for size in (answer.log_size_bytes, answer.store_size_bytes, answer.free_bytes)]
        rows.append(
            [
                *(name, address, state + (", no space" if answer.out_of_space else "")),
                *(duration_text(answer.uptime_ms / 1000), f"{leads}/{len(answer.shards)}", pending, *sizes),
                *(size_text(answer.memory_bytes), answer.transport, answer.version),
            ]
        )
    headers = ["node", "address", "state", "up", "leads", "pending", "log", "store", "free", "memory", "transport", "version"]
    print_table(headers, rows, right="up leads pending log store free memory")


def print_shards(answers: list[cluster_pb2.StatusResponse]) -> None:
    """One row a shard and node."""
    from kvapi.v1 import kv_pb2

    rows: list[list[object]] = []
    for shard, node in sorted(
        ((shard, answer.node.name) for answer in answers for shard in answer.shards), key=lambda row: (row[0].shard, row[1])
    ):
        role = enum_name(kv_pb2.Role.Name(shard.role), "ROLE_").lower()
        lag = ", ".join(f"{follower} {entries}" for follower, entries in sorted(shard.lag.items()))
        indexes = [shard.first_index, shard.flushed_index, shard.applied_index, shard.commit_index, shard.last_index]
        counts = [shard.keys, shard.pending_eventual, shard.superseded]
        rows.append([shard.shard, node, role, shard.term, *indexes, *counts, f"{shard.state_hash:016x}", lag])
    headers = ["shard", "node", "role", "term", "first", "flushed", "applied", "commit", "last", "keys", "pending"]
    headers += ["superseded", "state hash", "lag"]
    print_table(headers, rows, right="shard term first flushed applied commit last keys pending superseded")


def members(call: Call) -> None:
    """Show the members, as one node sees them."""
    from kvapi.v1 import message_pb2

    with open_admin(call) as admin:
        address, answer = admin.members()
    if call.as_json:
        print_json({"as_seen_by": address, **as_plain(answer)})
        return
    rows = [
        [
            *(member.name, member.address, enum_name(message_pb2.NodeState.Name(member.state), "NODE_STATE_")),
            *(member.incarnation, f"{member.phi:.2f}", duration_text(member.last_heard_ms / 1000), member.uid),
        ]
        for member in answer.members
    ]
    headers = ["node", "address", "state", "incarnation", "phi", "last heard", "uid"]
    print_table(headers, rows, title=f"As {address} sees it, epoch {answer.epoch}", right="incarnation phi")


def topology(call: Call) -> None:
    """Show the shard map: each shard's leader, term and replicas."""
    with open_admin(call) as admin:
        answer = admin.topology()
    if call.as_json:
        print_json(as_plain(answer))
        return
    rows = [
        [shard.shard, shard.leader or "none", shard.term, ", ".join(shard.replicas)]
        for shard in sorted(answer.shards, key=lambda shard: shard.shard)
    ]
    title = f"Cluster {answer.cluster_id}, epoch {answer.epoch}, hash {answer.key_hash}"
    print_table(["shard", "leader", "term", "replicas"], rows, title=title, right="shard term")


def transfer(
    call: Call,
    shard: Annotated[int, typer.Argument(min=0, metavar="SHARD", help="The shard.")],
    to: Annotated[str, typer.Argument(metavar="[NODE]", help="The new leader; default: the most advanced follower.")] = "",
) -> None:
    """Hand a shard's leadership to another node."""
    from kvapi.v1 import cluster_pb2

    request = cluster_pb2.TransferLeadershipRequest(shard=shard, to=to)
    with open_admin(call) as admin:
        shape = admin.topology()
        _lead_first(admin, shape, shard)  # only the leader can hand it over
        place = next((place for place in shape.shards if place.shard == shard), None)
        leads_already = place is not None and to != "" and place.leader == to
        try:
            _, answer = admin.any(lambda stub, timeout_s: stub.TransferLeadership(request, timeout=timeout_s))
        except Failure as failure:
            if place is None or not leads_already or failure.reason != "INVALID_ARGUMENT":
                raise
            answer = cluster_pb2.TransferLeadershipResponse(leader=to, term=place.term)  # older nodes refuse what is done
    leads_already = leads_already and answer.leader == to
    if call.as_json:
        print_json({"shard": shard, **as_plain(answer), "led_already": leads_already})
    elif leads_already:
        print(f"{answer.leader} leads it already: shard {shard}, term {answer.term}")
    else:
        print(f"{answer.leader} leads shard {shard} in term {answer.term}")


def superseded(
    call: Call,
    shard: Annotated[int | None, typer.Option("--shard", min=0, help="Only this shard.")] = None,
    limit: LimitOption = 100,
) -> None:
    """List eventual writes that took no effect: which, why, and what won."""
    from kvapi.v1 import cluster_pb2, kv_pb2

    total, writes = 0, []
    with open_admin(call) as admin:
        shape = admin.topology()
        for place in shape.shards:
            if shard is not None and place.shard != shard:
                continue
            _lead_first(admin, shape, place.shard)  # each shard at its leader: nothing counts twice, the latest is there
            request = cluster_pb2.SupersededRequest(shard=place.shard, limit=limit)
            _, answer = admin.any(
                lambda stub, timeout_s, request=request: stub.Superseded(request, timeout=timeout_s)  # type: ignore[misc]
            )
            total += answer.total
            writes += answer.writes
    writes = sorted(writes, key=lambda write: -write.hlc)[:limit]
    if call.as_json:
        plain = [
            call.encoding.json_field("key", write.key) | as_plain(write) | {"time": hlc_time(write.hlc)} for write in writes
        ]
        print_json({"total": total, "writes": plain})
        return
    rows = [
        [
            *(hlc_time(write.hlc), write.shard, call.encoding.encode(write.key), write.operation_id, write.revision),
            *(enum_name(kv_pb2.SupersededReason.Name(write.reason), "SUPERSEDED_REASON_"), write.superseded_by or "unknown"),
        ]
        for write in writes
    ]
    headers = ["written", "shard", "key", "operation", "revision", "reason", "superseded by"]
    print_table(headers, rows, title=f"{total} superseded since the shards were created", right="shard revision")


def events(
    call: Call,
    node: Annotated[str, typer.Option("--node", help="Only of this node.")] = "",
    limit: LimitOption = 100,
) -> None:
    """Show who changed state, when and why: the failure detectors' durable records."""
    from kvapi.v1 import cluster_pb2, message_pb2

    request = cluster_pb2.EventsRequest(node=node, limit=limit)
    with open_admin(call) as admin:
        _, known = admin.members()
        names = {member.address: member.name for member in known.members}
        answers = admin.each(list(names), lambda stub, timeout_s: stub.Events.future(request, timeout=timeout_s))
    seen = [
        (event, names[address])
        for address, answer in answers.items()
        if not isinstance(answer, Failure)
        for event in answer.events
    ]
    seen = sorted(seen, key=lambda row: -row[0].at_ms)[:limit]
    if call.as_json:
        plain = [{"observer": observer, "time": time_text(event.at_ms), **as_plain(event)} for event, observer in seen]
        print_json({"events": plain})
        return
    state = message_pb2.NodeState.Name
    rows = [
        [
            *(time_text(event.at_ms), event.node, enum_name(state(getattr(event, "from")), "NODE_STATE_")),
            *(enum_name(state(event.to), "NODE_STATE_"), observer, event.incarnation, event.why),
        ]
        for event, observer in seen
    ]
    print_table(["when", "node", "from", "to", "seen by", "incarnation", "why"], rows, right="incarnation")
