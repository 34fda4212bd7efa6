"""What the nodes say about transactions, put together: whose word counts, in which order, and what a transaction waits for.

Owns the merging and the sentence. Pure: it talks to nobody and prints nothing.

A transaction is decided by its anchor's log and ends on each shard by itself, so that shards, and a shard's replicas, may know
different parts of the truth at one moment. None of it is wrong: whoever knows a decision knows the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kvapi.v1 import cluster_pb2
from kvapi.v1 import two_phase_commit_pb2 as pb
from kvctl.output import Encoding, enum_name

KEYS_SHOWN_MAX = 3
"""Of a transaction, in a table."""
_ENDED = (pb.TRANSACTION_STATE_COMMITTED, pb.TRANSACTION_STATE_ABORTED)


class Sighting(NamedTuple):
    """A transaction as one node's replica of one shard knows it."""

    node: str
    info: cluster_pb2.TransactionInfo


class Standing(NamedTuple):
    """Where a transaction stands."""

    decision: str
    """ "committed" or "aborted"; empty: nothing is decided."""
    waits_for: list[int]
    """Shards: for their votes, for the anchor's decision, or for what was decided to be applied there."""
    sentence: str
    """All of it for a person."""


def state_name(state: int) -> str:
    """PREPARED; a state from a newer node is its number."""
    known = state in pb.TransactionState.values()
    return enum_name(pb.TransactionState.Name(state), "TRANSACTION_STATE_") if known else str(state)


def started(transaction_id: str) -> int:
    """The hybrid logical clock of a transaction's start, the first part of its name; 0 if it has none."""
    start = transaction_id.partition(".")[0]
    return int(start) if start.isascii() and start.isdigit() else 0


def anchor_of(sightings: Iterable[Sighting]) -> int | None:
    """The shard that decides on one transaction; None: it ended, and only how is still known."""
    return next((sighting.info.anchor for sighting in sightings if sighting.info.participants), None)


def one_per_shard(sightings: Iterable[Sighting], leaders: Mapping[int, str]) -> list[Sighting]:
    """Of each transaction and shard the leader's word: followers may be behind. `leaders` has those that answered; of a shard
    whose leader did not, the replica's that knows most.
    """
    chosen: dict[tuple[str, int], Sighting] = {}
    for sighting in sightings:
        info = sighting.info
        if not info.leader and leaders.get(info.shard, sighting.node) != sighting.node:
            continue
        before = chosen.setdefault((info.transaction_id, info.shard), sighting)
        if (info.leader, info.state, info.index) > (before.info.leader, before.info.state, before.info.index):
            chosen[info.transaction_id, info.shard] = sighting
    return list(chosen.values())


def in_order(sightings: Iterable[Sighting]) -> list[Sighting]:
    """Under way first, the oldest first; then those that ended, the latest first. A transaction's shards stay together, the
    anchor first; a shard's replicas too, the leader first.
    """
    sightings = list(sightings)
    under_way = {sighting.info.transaction_id for sighting in sightings if sighting.info.state not in _ENDED}

    def place(sighting: Sighting) -> tuple[object, ...]:
        info = sighting.info
        ended, start = info.transaction_id not in under_way, started(info.transaction_id)
        age = (ended, -start if ended else start, info.transaction_id)
        return (*age, info.shard != info.anchor, info.shard, not info.leader, sighting.node)

    return sorted(sightings, key=place)


def standing(sightings: Sequence[Sighting], leaders: Mapping[int, str]) -> Standing:
    """Where one transaction stands, from what all replicas say; there is at least one."""
    infos = {sighting.info.shard: sighting.info for sighting in one_per_shard(sightings, leaders)}
    infos = infos or {sighting.info.shard: sighting.info for sighting in sightings}
    states = {sighting.info.state for sighting in sightings}
    holding = {shard for shard, info in infos.items() if info.state == pb.TRANSACTION_STATE_PREPARED}
    if states & {pb.TRANSACTION_STATE_COMMITTING, pb.TRANSACTION_STATE_COMMITTED}:
        done = {shard for shard, info in infos.items() if info.state == pb.TRANSACTION_STATE_COMMITTED}
        waits_for = sorted(holding.union(*(info.unresolved for info in infos.values())) - done)
        decision, sentence = "committed", "It is committed; no shard that answers has anything left to do."
        if waits_for:
            sentence = f"It is committed. It waits for {shards_text(waits_for)} to apply its writes and give the locks back."
    elif pb.TRANSACTION_STATE_ABORTED in states:
        waits_for = sorted(holding)
        decision, sentence = "aborted", "It is aborted; no shard that answers holds a lock of it."
        if waits_for:
            sentence = f"It is aborted. It waits for {shards_text(waits_for)} to give the locks back."
    else:
        anchor = anchor_of(sightings) or 0
        shards = {anchor}.union(infos, *(info.participants for info in infos.values()))
        missing = sorted(shards - set(infos))
        decision, waits_for = "", missing or [anchor]
        sentence = f"All its shards have voted yes. It waits for shard {anchor}, its anchor, to decide."
        if missing:
            votes = f"vote{'s' * (len(missing) > 1)} of {shards_text(missing)}"
            sentence = f"Nothing is decided. It waits for the {votes}; shard {anchor} decides."
    silent = [shard for shard in waits_for if shard not in leaders]
    if silent:
        sentence += f" No leader of {shards_text(silent)} answers."
    return Standing(decision, waits_for, sentence)


def shards_text(shards: Sequence[int]) -> str:
    """shard 3; shards 3 and 5; shards 3, 5 and 7."""
    *most, last = map(str, shards)
    return f"shards {', '.join(most)} and {last}" if most else f"shard {last}"


def keys_text(encoding: Encoding, keys: Sequence[bytes], prefixes: Sequence[bytes] = ()) -> str:
    """Some keys for a cell of a table, and how many more there are; prefixes end in `*`."""
    shown = [encoding.shorten(key) for key in keys] + [f"{encoding.shorten(prefix)}*" for prefix in prefixes]
    more = len(shown) - KEYS_SHOWN_MAX
    return ", ".join(shown[:KEYS_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
