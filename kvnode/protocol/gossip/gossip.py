"""Anti-entropy between members: who is where, in which state, how loaded, and whom somebody suspects.

Owns what this node knows of every member. Never does I/O and never reads a clock. **Gossip never grants a vote, a lease
or a commit**: what it says is late, second-hand and may be wrong; it chooses routes and shows people the cluster.

A round pushes to `fanout` peers the records that are news, with digests of everything; the peer answers with what it
knows better and asks for what it lacks, which then follows at once (push-pull, Demers et al., "Epidemic algorithms for
replicated database maintenance", PODC 1987, section 1.3). News is pushed about 3 * log2(n) times by each node that learns
it (SWIM section 4.1); the digests repair what chance left out.

Invariants:
- Nobody but this node changes this node's record; whoever doubts it is refuted with a greater version.
- What is known of a member never gets older: records only move up in the order of record.py.
- A message that comes late, twice or never changes nothing that the next round does not repair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from kvapi.v1.gossip_pb2 import ExchangeRequest, ExchangeResponse, MemberRecord
from kvapi.v1.message_pb2 import NodeState
from kvnode.limits import NODES_MAX
from kvnode.protocol.gossip.record import VERSION_MAX, Age, age, digest, merge, next_own_version, suspected
from kvnode.protocol.gossip.settings import GossipSettings
from kvnode.types import NodeName, Seconds

PUSH_FACTOR: Final = 3
"""SWIM's lambda: a node pushes one piece of news lambda * log2(n + 1) times."""
IDLE_FACTOR: Final = 5
"""Without news, rounds come so many times more rarely, and go to one peer."""
JITTER: Final = 0.1
"""Rounds are spread by this part of the interval, so that nodes started together do not talk in step."""
IN_FLIGHT_STEP_MIN: Final = 8
"""Smaller changes of load are no news; nor are those below half of what was last said."""


class Coverage(NamedTuple):
    """How far this node's latest word has come, by what others showed to know."""

    informed: int
    """Peers known to have our latest record."""
    peers: int


@dataclass(frozen=True, slots=True)
class GossipActions:
    """What the driver does now."""

    exchange: tuple[tuple[NodeName, ExchangeRequest], ...] = ()
    """(peer, request without its envelope): send, and call `on_exchange_response` with the answer if one comes."""
    deadline: Seconds | None = None
    """Call `step` no later than this (monotonic seconds); None: there is nobody to talk to."""


class Gossip:
    """One per node. `seeds` are the names of the configured members; records may add others, up to NODES_MAX.

    `me` is this node's first word: name, address, uid, incarnation and state count, its version is chosen here.
    """

    def __init__(self, me: MemberRecord, seeds: Sequence[NodeName], settings: GossipSettings, rng: Random) -> None:
        own = MemberRecord()
        own.CopyFrom(me)
        own.version = next_own_version(me.version)
        own.suspected_by = ""
        self._me: NodeName = me.name
        self._records: dict[NodeName, MemberRecord] = {self._me: own}
        self._names: list[NodeName] = sorted(name for name in dict.fromkeys(seeds) if name != self._me)
        self._fanout = settings.fanout
        self._interval: Seconds = settings.interval_ms / 1000.0
        self._rng = rng
        self._untried: list[NodeName] = []
        self._pushes_left: dict[NodeName, int] = {}
        self._replies_due: dict[NodeName, list[NodeName]] = {}
        """Peer -> names whose records it asked for."""
        self._shown: dict[NodeName, Age] = {}
        """Peer -> the newest of our own records that it showed to know."""
        self._sent: dict[NodeName, Age] = {}
        """Peer -> our own age in the oldest exchange without an answer; its answer proves no more than that."""
        self._round_at: Seconds | None = None
        self._mark_news(self._me)

    # What this node has to say.

    def update_self(self, state: NodeState | None = None, leads: int | None = None, in_flight: int | None = None) -> None:
        """Says what changed; None leaves a field. Small changes of load are left unsaid. `step` may be due earlier after it."""
        own = self._records[self._me]
        new_state = own.state if state is None else state
        new_leads = own.leads if leads is None else leads
        new_in_flight = own.in_flight if in_flight is None else in_flight
        load_changed = abs(new_in_flight - own.in_flight) > max(IN_FLIGHT_STEP_MIN, own.in_flight // 2)
        if new_state != own.state or new_leads != own.leads or load_changed:
            own.state, own.leads, own.in_flight = new_state, new_leads, new_in_flight
            self._say(own.version)

    def report_suspicion(self, name: NodeName, suspected_by: NodeName) -> bool:
        """Spreads that `suspected_by` suspects a member; False: unknown, this node itself, or already suspected."""
        record = self._records.get(name)
        if record is None or name == self._me or record.suspected_by:
            return False
        self._records[name] = suspected(record, suspected_by)
        self._mark_news(name)
        return True

    def _say(self, above: int) -> None:
        """Our next word, above a version that somebody has seen."""
        self._records[self._me].version = next_own_version(above)
        self._mark_news(self._me)

    # Rounds.

    def step(self, now: Seconds) -> GossipActions:
        """Starts a round when one is due, and sends at once what peers asked for."""
        if not self._names:
            return GossipActions()
        peers = sorted(self._replies_due)
        if self._round_at is None or now >= self._next_round_at():
            count = self._fanout if self._pushes_left else 1
            spread = self._interval * JITTER
            self._round_at = now + self._rng.uniform(-spread, spread) / 2.0
            peers += [peer for peer in self._choose(count) if peer not in peers]
        exchange = tuple((peer, self._request_to(peer)) for peer in peers)
        return GossipActions(exchange, max(now, self._next_round_at()))

    def _next_round_at(self) -> Seconds:
        # News that arrives in an idle time pulls the next round forward, but never closer than one interval.
        factor = 1 if self._pushes_left else IDLE_FACTOR
        return (self._round_at or 0.0) + factor * self._interval

    def _choose(self, count: int) -> list[NodeName]:
        """Peers at random, none again before all were tried: nobody is left out by bad luck (SWIM section 4.3)."""
        chosen: list[NodeName] = []
        while len(chosen) < min(count, len(self._names)):
            if not self._untried:
                self._untried = [name for name in self._names if name not in chosen]
                self._rng.shuffle(self._untried)
            chosen.append(self._untried.pop())
        return chosen

    def _request_to(self, peer: NodeName) -> ExchangeRequest:
        names = [*self._pushes_left, *(n for n in self._replies_due.pop(peer, ()) if n not in self._pushes_left)]
        for name in list(self._pushes_left):
            self._pushes_left[name] -= 1
            if self._pushes_left[name] <= 0:
                del self._pushes_left[name]
        self._sent.setdefault(peer, age(self._records[self._me]))
        return ExchangeRequest(
            digests=[digest(record) for _, record in sorted(self._records.items())],
            records=[self._records[name] for name in names],
        )

    # Messages.

    def on_exchange(self, request: ExchangeRequest, now: Seconds) -> ExchangeResponse:
        """Takes in a peer's news and answers with what it lacks. The envelope's `from_node` names the peer."""
        self._take_in(request.records)
        told = {record.name for record in request.records}  # Only asked for membership, never iterated.
        theirs = {entry.name: age(entry) for entry in request.digests}
        self._refute(theirs.get(self._me))
        self._show(request.message.from_node, theirs.get(self._me))
        wanted = [
            name
            for name, their_age in sorted(theirs.items())
            if name not in told and name != self._me and self._age_of(name) < their_age and self._admits(name)
        ]
        newer = [record for name, record in sorted(self._records.items()) if theirs.get(name, (0, -1)) < age(record)]
        return ExchangeResponse(records=newer, wanted=wanted)

    def on_exchange_response(self, peer: NodeName, response: ExchangeResponse, now: Seconds) -> None:
        """Takes in what the peer knows better; what it asked for goes out with the next `step`: call it."""
        if peer not in self._names:
            return
        sent = self._sent.pop(peer, None)  # None: a second answer to the same exchange; it proves nothing new.
        self._take_in(response.records)
        wanted = [name for name in dict.fromkeys(response.wanted) if name in self._records]
        if wanted:
            self._replies_due[peer] = wanted
        if self._me not in wanted:
            self._show(peer, sent)

    def _take_in(self, records: Iterable[MemberRecord]) -> None:
        for record in records:
            if record.name == self._me:
                self._refute(age(record))
            elif self._admits(record.name) and record.version < VERSION_MAX:
                self._learn(record)

    def _learn(self, record: MemberRecord) -> None:
        known = self._records.get(record.name)
        if known is not None and merge(known, record) == known:
            return
        kept = MemberRecord()
        kept.CopyFrom(record)
        self._records[record.name] = kept
        if record.name not in self._names:
            self._names = sorted([*self._names, record.name])
        self._mark_news(record.name)

    def _refute(self, heard: Age | None) -> None:
        """Somebody has a newer record of us than we: a suspicion, or a word that we forgot. Ours goes above it.

        Only within this incarnation. A later incarnation under our name is another life of this name; arguing with it
        would never end, and which of the two may stay is not gossip's to decide.
        """
        own = self._records[self._me]
        if heard is not None and heard[0] == own.incarnation and own.version < heard[1] < VERSION_MAX:
            self._say(heard[1])

    # Bookkeeping.

    def _admits(self, name: NodeName) -> bool:
        return bool(name) and (name in self._records or name in self._names or len(self._names) + 1 < NODES_MAX)

    def _age_of(self, name: NodeName) -> Age:
        record = self._records.get(name)
        return (0, -1) if record is None else age(record)

    def _mark_news(self, name: NodeName) -> None:
        self._pushes_left[name] = PUSH_FACTOR * math.ceil(math.log2(len(self._names) + 2))

    def _show(self, peer: NodeName, shown: Age | None) -> None:
        if peer in self._names and shown is not None:
            self._shown[peer] = max(shown, self._shown.get(peer, shown))

    # Queries.

    def members(self) -> tuple[MemberRecord, ...]:
        """Everything known, this node included, by name: copies."""
        copies = []
        for _, record in sorted(self._records.items()):
            copy = MemberRecord()
            copy.CopyFrom(record)
            copies.append(copy)
        return tuple(copies)

    def member(self, name: NodeName) -> MemberRecord | None:
        """What is known of one member: a copy; None: nothing."""
        if name not in self._records:
            return None
        copy = MemberRecord()
        copy.CopyFrom(self._records[name])
        return copy

    def coverage(self) -> Coverage:
        """How many peers showed to know this node's latest word. A dead peer never does."""
        own = age(self._records[self._me])
        return Coverage(sum(self._shown.get(peer, (0, -1)) >= own for peer in self._names), len(self._names))

    @property
    def converged(self) -> bool:
        """Whether every peer showed to know this node's latest word."""
        informed, peers = self.coverage()
        return informed == peers
