"""What members know of each other, spread by gossip. See docs/protocols/gossip.md."""

from kvnode.protocol.gossip.gossip import Coverage, Gossip, GossipActions
from kvnode.protocol.gossip.record import merge
from kvnode.protocol.gossip.settings import GossipSettings

__all__ = ["Coverage", "Gossip", "GossipActions", "GossipSettings", "merge"]
