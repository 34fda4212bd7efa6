"""What an implementation makes of frames, in a word, so that tables of cases can say what it ought to be.

The words: "OK" or a gRPC status's number; "HTTP n"; "RST n"; "GOAWAY n" where the connection is closed after a GOAWAY of that
code, "CLOSED" where there was none; "IGNORED" where nothing happens and the connection goes on; "HANGS" is never right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.pairs import Wire

HANGS_AFTER_S = 3.0

REFUSED = frozenset({"13", "RST 1", "RST 2", "HTTP 400", "GOAWAY 1"})
"""A malformed request may be refused in any of these ways."""


class Case(NamedTuple):
    """Frames of a client; what grpcio was measured to make of them, and what RFC 9113 and gRPC's specification ask for."""

    sent: bytes
    grpcio: str | Collection[str]
    others: str | Collection[str] | None = None
    """None: the same as grpcio does."""
    stream: int = 1
    preface: bytes | None = None

    def expected(self, wire: Wire) -> frozenset[str]:
        """The words that are right for an implementation."""
        words = self.grpcio if wire.name == "grpcio" or self.others is None else self.others
        return frozenset({words}) if isinstance(words, str) else frozenset(words)


async def observe(peer: raw.Peer, stream: int, *, silence_is_right: bool = False) -> str:
    """The word for what came back on a stream, or happened to the connection."""
    try:
        if silence_is_right:
            await peer.settled(HANGS_AFTER_S)
            if not any(frame.stream == stream and frame.type != h2.WINDOW_UPDATE for frame in peer.inbox):
                return "IGNORED"
        word = name(await peer.answer(stream, HANGS_AFTER_S))
        await peer.settled(HANGS_AFTER_S)
        return word
    except TimeoutError:
        return "HANGS"
    except (raw.Ended, OSError):
        return await ending(peer)


async def ending(peer: raw.Peer) -> str:
    """The word for how a connection ended."""
    try:
        last = await peer.end(HANGS_AFTER_S)
    except TimeoutError:
        return "HANGS"
    return "CLOSED" if last is None else f"GOAWAY {last.number}"


def name(answer: raw.Answer) -> str:
    """The word for an answer."""
    if answer.http_status not in (0, 200):
        return f"HTTP {answer.http_status}"
    if answer.status is not None:
        return str(answer.status or "OK")
    return "NO STATUS" if answer.reset is None else f"RST {answer.reset}"


async def departures(wire: Wire, address: str, cases: Mapping[str, Case]) -> dict[str, str]:
    """Plays all cases at once, each on a connection of its own: where the outcome is not the expected one, what it was."""
    words = await asyncio.gather(*(play(address, case, "IGNORED" in case.expected(wire)) for case in cases.values()))
    return {
        name: f"{word}, not {' or '.join(sorted(case.expected(wire)))}"
        for (name, case), word in zip(cases.items(), words, strict=True)
        if word not in case.expected(wire)
    }


async def play(address: str, case: Case, silence_is_right: bool) -> str:
    """The word for a case's outcome."""
    async with raw.connect(address, preface=case.preface) as peer:
        try:
            await peer.send(case.sent)
        except OSError:
            pass  # hung up on already
        return await observe(peer, case.stream, silence_is_right=silence_is_right)
