"""What a session is promised, held against what the log did: it reads its writes, and its writes follow its reads.

Owns: these two checks, and the one excuse that there is for them. (That a session never goes back is checked as it reads, by
`workload`.)

The excuse: last writer wins by the writes' clocks, and a clock that is more than `CLOCK_SKEW_MS_MAX` ahead is cut down to
that, a session's where it comes in, a write's at its place in the log. A write that this happened to need not win.
"""

from __future__ import annotations

from .history import EventualState, Violation
from .workload import Eventual, Workload
from .world import World


def check_read_your_writes(world: World, workload: Workload) -> list[Violation]:
    """What a session's read of its own key was served from includes its last acknowledged write.

    It may show an earlier write of the session all the same, one that is on its way yet, if that has the later clock.
    """
    found = []
    lost = [node.name for node in world.nodes.values() if node.lost]
    by_key: dict[bytes, list[Eventual]] = {}
    for write in workload.eventual:
        if write.number:
            by_key.setdefault(write.operation.key, []).append(write)
    for read in workload.session_reads:
        if read.seen >= read.expected:
            continue
        missed = by_key[read.key][read.expected - 1]
        outcome = workload.outcome_of(missed)
        if missed.operation_id.split(".")[1] in lost:
            continue
        included = outcome.state is EventualState.APPLIED and not read.tentative and read.revision >= outcome.revision
        seen = by_key[read.key][read.seen - 1].operation_id if read.seen > 0 else ""
        later = world.witness.was_cut_down(missed.operation_id) and _is_later(world, seen, missed.operation_id)
        if included or later or outcome.state is EventualState.SUPERSEDED:
            world.counts["a session's later write lost against its earlier"] += 1
        else:
            found.append(Violation("read your writes", f"{read}; the missed write is {outcome}"))
    world.counts["session reads of own keys"] += len(workload.session_reads)
    return found


def _is_later(world: World, seen: str, missed: str) -> bool:
    stamps = world.witness.stamps
    return seen in stamps and missed in stamps and stamps[seen].said >= stamps[missed].counted


def check_writes_follow_reads(world: World, workload: Workload) -> list[Violation]:
    """A session's eventual write comes after the version that the session has seen of the key."""
    applied = [write for places in world.witness.applied.values() for writes in places.values() for write in writes]
    clocks = {write.operation_id: write.hlc for write in applied if write.operation_id}
    lost = [node.name for node in world.nodes.values() if node.lost]
    found = []
    for write, seen_hlc in workload.following:
        hlc = clocks.get(write.operation_id)
        if hlc is None or not seen_hlc or write.operation_id.split(".")[1] in lost:
            continue
        if world.witness.was_cut_down(write.operation_id):
            continue
        world.counts["session writes that follow a read"] += 1
        if hlc <= seen_hlc:
            message = f"{write.client}: {write.operation_id} has the clock {hlc}, and the session had seen {seen_hlc}"
            found.append(Violation("a session's writes follow its reads", message))
    return found
