"""What happened, in order: an append-only trace of events with a running hash.

Owns: the events of one run (the last of them in memory, all of them in the hash), and how they are shown to people.
Never: decides anything; a run with a trace and one without are the same run.

Invariants: the same seed gives the same hash; the hash covers every event since the start, also those no longer kept.
Texts must not hold what differs between two runs of one seed: addresses of objects, real times, the order of a set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple, TextIO

KEPT = 20_000
"""Events kept for printing."""
VIOLATION = "VIOLATION "
"""How an event begins that tells of a broken promise."""


class TraceEvent(NamedTuple):
    """One event: virtual seconds, the node ("" is the world outside), and what happened there."""

    time: float
    node: str
    text: str


class Trace:
    """The trace of one run. `clock` gives virtual seconds; `sink` gets every event as a line, for a whole trace on disk."""

    def __init__(self, clock: Callable[[], float], *, kept: int = KEPT, sink: TextIO | None = None) -> None:
        self.count = 0
        self._clock = clock
        self._events: deque[TraceEvent] = deque(maxlen=kept)
        self._hash = blake2b(digest_size=8)
        self._sink = sink

    def event(self, node: str, text: str) -> None:
        """Append an event that happens now."""
        event = TraceEvent(self._clock(), node, text)
        self.count += 1
        self._events.append(event)
        self._hash.update(f"{event.time!r}\x1f{node}\x1f{text}\x1e".encode("utf-8", "backslashreplace"))
        if self._sink is not None:
            self._sink.write(f"{event.time:14.6f} {node or '-':<6} {text}\n")

    def hash(self) -> str:
        """A digest of all events so far, in hex: equal for equal runs."""
        return self._hash.hexdigest()

    def events(self) -> list[TraceEvent]:
        """The events still kept, oldest first."""
        return list(self._events)

    def tail(self, count: int = 50, *, nodes: Iterable[str] | None = None) -> str:
        """Events for a terminal: time, time since the line above, a lane for each node, and what happened.

        The last ones; where a promise was broken, those up to then and a few more: a run goes on for a while. `nodes`: only
        these (and the world's own events). Events of the same instant show their time once.
        """
        wanted = None if nodes is None else ["", *nodes]
        events = [event for event in self._events if wanted is None or event.node in wanted]
        events = events[window([event.text for event in events], count)]
        if not events:
            return "(no events)"
        lanes = sorted({event.node for event in events if event.node})
        widths = [max(len(lane), 1) for lane in lanes]
        lines = [f"{'time s':>14} {'+ms':>10}  " + " ".join(lanes) + ("  " if lanes else "") + "event"]
        previous: float | None = None
        for event in events:
            if previous is None:
                when = f"{event.time:14.6f} {'':>10}"
            elif event.time == previous:
                when = " " * 25
            else:
                when = f"{event.time:14.6f} {f'+{(event.time - previous) * 1000:.3f}':>10}"
            previous = event.time
            marks = " ".join(
                (lane if lane == event.node else "|").center(width) for lane, width in zip(lanes, widths, strict=True)
            )
            head = f"{when}  {marks}{'  ' if lanes else ''}"
            first, *more = event.text.splitlines() or [""]
            lines.append((head if event.node else head.replace("|", "-")) + first)
            lines += [" " * len(head) + line for line in more]
        hidden = self.count - len(events)
        return "\n".join([*lines, f"({len(events)} of {self.count} events, {hidden} not shown; hash {self.hash()})"])


def window(texts: Sequence[str], count: int) -> slice:
    """Which of the events to show: up to the first violation and a few more, or else the last ones."""
    broken = next((at for at, text in enumerate(texts) if VIOLATION in text), len(texts))
    end = min(len(texts), broken + 1 + count // 6)
    return slice(max(0, end - max(count, 0)), end)
