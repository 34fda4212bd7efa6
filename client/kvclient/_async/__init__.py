"""The client on asyncio: the source from which `tools/unasync.py` makes the client on threads."""
