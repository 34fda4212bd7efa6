"""kvnode: a replicated key-value store, one process a node."""

__version__ = "0.1.0"
