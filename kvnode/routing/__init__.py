"""Which shard a key belongs to, which node serves it, and what happens when that is another one."""
