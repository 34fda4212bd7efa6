"""The primitives that differ between asyncio and threads: `async_` and `sync` have the same names, the client one source."""
