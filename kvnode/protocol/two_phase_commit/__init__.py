"""Two-phase commit between shards: who may hold which lock, what a shard and a coordinator do next."""
