"""The only rooms that wait: event loop, threads, timers, connections."""
