"""Raft for one shard: elections, log replication, read index, leadership transfer (Ongaro 2014)."""
