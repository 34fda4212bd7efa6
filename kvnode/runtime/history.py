"""What happened to the nodes and to the shards' leaderships, durably: what availability is computed from.

Owns both journals, and the wall times in them: moments of the event loop are turned into Unix milliseconds here, when they are
recorded. Never judges: `kvctl availability` does.
"""

from __future__ import annotations

from collections.abc import Callable

from kvapi.v1 import cluster_pb2
from kvnode.protocol.failure_detection.actions import Transition
from kvnode.protocol.raft.leadership import Leadership
from kvnode.runtime.driver import Driver
from kvnode.runtime.flusher import NODE_ROWS, Rows
from kvnode.runtime.journal import Journal, Kind
from kvnode.runtime.recovery import ALIVE_RECORD, EVENT_RECORD, LEADERSHIP_RECORD, NODE_EVENT_RECORD, Recovered
from kvnode.storage.records import NodeRecord
from kvnode.storage.store import Store
from kvnode.types import Origin, Seconds, Shard

NODE_EVENTS = Kind(cluster_pb2.NodeEvent, NODE_EVENT_RECORD, b"e")
LEADERSHIPS = Kind(cluster_pb2.LeadershipEvent, LEADERSHIP_RECORD, b"l")

ALIVE_INTERVAL: Seconds = 2.0
"""A crash cannot be recorded by who crashes: it falls within so long after the last sign of life on its disk. As often as the
clock's bound, with which it shares a sync."""


class History:
    """One node's record of itself and of the others."""

    def __init__(
        self,
        me: Origin,
        driver: Driver,
        store: Store,
        recovered: Recovered,
        wall_ms: Callable[[], int],
    ) -> None:
        """From disk. Raises `Corrupt`."""
        self._me, self._driver, self._wall_ms = me, driver, wall_ms
        self._last_alive_ms = recovered.alive_ms
        """Of the life before; told with the first word about this one."""
        self._alive_due: Seconds = 0.0

        def rows(kind: Kind) -> list[tuple[bytes, bytes]]:
            return list(store.scan(NODE_ROWS, kind.row, bytes([kind.row[0] + 1])))

        logged = recovered.journals
        self.events: Journal[cluster_pb2.NodeEvent] = Journal(
            driver, NODE_EVENTS, rows(NODE_EVENTS), logged.get(NODE_EVENT_RECORD, ()), logged.get(EVENT_RECORD, ())
        )
        self.leaderships: Journal[cluster_pb2.LeadershipEvent] = Journal(
            driver, LEADERSHIPS, rows(LEADERSHIPS), logged.get(LEADERSHIP_RECORD, ())
        )

    def step(self, now: Seconds) -> None:
        """To be called regularly: has it on disk, every now and then, that the node runs."""
        if now >= self._alive_due:
            self._alive_due = now + ALIVE_INTERVAL
            self._driver.write_node_record(NodeRecord(ALIVE_RECORD, str(self._wall_ms()).encode()))

    def on_transition(self, transition: Transition) -> None:
        """A node changed state, this one too."""
        mine = transition.node == self._me.node
        # (`from` is a word of Python: the field cannot be named as a keyword argument.)
        event = cluster_pb2.NodeEvent(
            node=transition.node,
            to=transition.to_state,
            at_ms=self._wall_ms_at(transition.at),
            why=transition.why,
            incarnation=self._me.incarnation if mine else transition.incarnation,
            silent_ms=transition.silent_ms,
            **{"from": transition.from_state},
        )
        if mine:
            event.last_alive_ms, self._last_alive_ms = self._last_alive_ms, 0
        self.events.append(event)

    def on_leadership(self, shard: Shard, leadership: Leadership) -> None:
        """A node leads a shard: this one, which could serve from `leadership.serves_since` on, or one that is followed here."""
        serves, since = leadership.serves_since, leadership.leaderless_since
        self.leaderships.append(
            cluster_pb2.LeadershipEvent(
                shard=shard,
                term=leadership.term,
                leader=leadership.leader,
                previous=leadership.previous,
                at_ms=self._wall_ms_at(serves),
                leaderless_ms=_ms(serves - since),
                cause=leadership.cause,
            )
        )

    def _wall_ms_at(self, moment: Seconds | None) -> int:
        """The Unix time of a moment of the event loop; None: now."""
        return self._wall_ms() - (0 if moment is None else _ms(self._driver.loop.time() - moment))

    def rows(self) -> Rows:
        """For the next flush."""
        return [*self.events.rows(), *self.leaderships.rows()]

    def on_flushed(self) -> None:
        """What `rows` returned last is in the store."""
        self.events.on_flushed()
        self.leaderships.on_flushed()


def _ms(duration: Seconds) -> int:
    return max(0, round(duration * 1000))
