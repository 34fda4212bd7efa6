"""Eventual writes: accepted by one replica, held by all, then given a place in the shard's log (DESIGN section 9)."""
