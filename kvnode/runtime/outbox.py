"""Everything that leaves for peers, by peer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kvnode.runtime.heartbeats import Heartbeats
from kvnode.runtime.peers import PeerLink
from kvnode.runtime.snapshots import Snapshots
from kvnode.types import NodeName, Shard


class PeerOutbox:
    """Hands what the shards want sent to the links; see `driver.Outbox`."""

    def __init__(self, links: Mapping[NodeName, PeerLink], heartbeats: Heartbeats, snapshots: Snapshots) -> None:
        self._links, self._heartbeats, self._snapshots = links, heartbeats, snapshots

    def start(self) -> None:
        """Begins to send."""
        for link in self._links.values():
            link.start()

    async def stop(self) -> None:
        """Ends all sending."""
        await asyncio.gather(*(link.stop() for link in self._links.values()))

    def send(self, shard: Shard, to: NodeName, message: object) -> None:
        """A vote request, or the word to campaign."""
        self._links[to].send(shard, message)

    def want_append(self, shard: Shard, to: NodeName) -> None:
        """The shard has entries for the peer."""
        self._links[to].want_append(shard)

    def want_snapshot(self, shard: Shard, to: NodeName) -> None:
        """The peer needs the shard's snapshot."""
        self._links[to].want_snapshot(shard, self._snapshots.send)

    def want_eventual(self) -> None:
        """Eventual writes wait to be passed on."""
        for link in self._links.values():
            link.want_eventual()

    def want_round(self) -> None:
        """Strong reads wait for a heartbeat round."""
        self._heartbeats.want_round()
