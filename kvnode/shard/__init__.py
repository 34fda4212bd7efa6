"""One shard on one node: Raft, the held eventual writes, and the state machine, assembled."""
