"""What `KV.Operation` says of eventual writes, on their way and at the end, held against what the log did with them.

Owns: which writes are asked for, where, and what the answers must be. Never: decides what became of a write; `witness` saw
that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvapi.v1 import kv_pb2
from kvnode.errors import KvnodeError
from kvnode.runtime.transport import PeerUnreachable

from .history import EventualState, EventualWrite, Violation

if TYPE_CHECKING:
    from .workload import Workload
    from .world import World

ASKED_MAX = 20
ATTEMPTS_MAX = 5

STATES = {
    kv_pb2.OPERATION_STATE_APPLIED: EventualState.APPLIED,
    kv_pb2.OPERATION_STATE_SUPERSEDED: EventualState.SUPERSEDED,
    kv_pb2.OPERATION_STATE_SETTLED: EventualState.SETTLED,
    kv_pb2.OPERATION_STATE_PENDING: EventualState.PENDING,
}


async def check_outcomes(world: World, workload: Workload) -> None:
    """Asks any live node for some writes. All agree by then, so whoever is asked knows the end."""
    rng = world.loop.random("outcomes")
    lost = [node.name for node in world.nodes.values() if node.lost]
    named = [w for w in workload.eventual if w.operation_id and w.operation_id.split(".")[1] not in lost]
    endpoint, nodes = world.network.endpoint("outcomes"), [sim.name for sim in world.live()]
    for write in rng.sample(named, min(ASKED_MAX, len(named))):
        for attempt in range(ATTEMPTS_MAX):
            node = rng.choice(nodes)
            try:
                answer = await endpoint.forward(node, kv_pb2.OperationRequest(operation_id=write.operation_id), 2.0, 0)
            except (KvnodeError, PeerUnreachable) as error:
                if attempt + 1 == ATTEMPTS_MAX:
                    world.violate("progress", f"{node} does not say what became of {write.operation_id}: {error}")
                await world.sleep(0.1)
                continue
            world.counts[f"operations told {STATES.get(answer.state, 'unknown')}"] += 1
            if wrong := contradiction(answer, workload.outcome_of(write)):
                world.violate(wrong.rule, f"{node}: {wrong.message}")
            break


def check_fates(world: World, workload: Workload) -> list[Violation]:
    """The same of what was told while the writes were under way: it may have been nothing yet, but not another end."""
    found = []
    lost = [node.name for node in world.nodes.values() if node.lost]
    for write, told in workload.fates:
        if STATES.get(told.state) in (None, EventualState.PENDING) or write.operation_id.split(".")[1] in lost:
            continue
        world.counts["fates told"] += 1
        if wrong := contradiction(told, workload.outcome_of(write)):
            found.append(wrong)
    return found


def contradiction(answer: kv_pb2.OperationResponse, known: EventualWrite) -> Violation | None:
    """What is wrong with the answer; None: nothing."""
    state = STATES.get(answer.state, EventualState.UNKNOWN)
    said = f"{known.operation_id} is {state} at {answer.revision} by {answer.superseded_by} ({answer.key!r}); it was {known}"
    if state is EventualState.SETTLED:
        right = known.state in (EventualState.APPLIED, EventualState.SUPERSEDED)
    elif state in (EventualState.APPLIED, EventualState.SUPERSEDED):
        right = (state, answer.revision, answer.key) == (known.state, known.revision, known.key)
        right = right and answer.superseded_by == known.superseded_by
    else:
        right = not known.acknowledged and known.state is EventualState.UNKNOWN
    return None if right else Violation("what is said of an eventual write is what became of it", said)
