"""What a node remembers: the log, the ordered store, the tables over it, and snapshots."""
