"""How long Python's garbage collector stops the process: its full collections, which look at every object.

Owns a callback of `gc`. The small collections, of which there are hundreds a second, are left alone: looking at the clock for
each would cost more than they do; `python_gc_collections_total` counts them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

from kvclient.histogram import Histogram

OLDEST_GENERATION = 2


class GcPauses:
    """Measures from `start` to `stop`."""

    def __init__(self) -> None:
        self.pauses = Histogram()
        """In microseconds."""
        self._began = 0.0

    def start(self) -> None:
        """Begins to measure."""
        gc.callbacks.append(self.on_collection)

    def stop(self) -> None:
        """Measures no more."""
        if self.on_collection in gc.callbacks:
            gc.callbacks.remove(self.on_collection)

    def on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        """`gc` begins ("start") or ends ("stop") a collection."""
        if info["generation"] != OLDEST_GENERATION:
            return
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.pauses.record(int((time.perf_counter() - self._began) * 1_000_000))
