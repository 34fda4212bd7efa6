"""Words that all dialogues share: which messages are meant, and how an eventual write is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from kvapi.v1 import replication_pb2


class Sent(Protocol):
    """A message on its way."""

    source: str
    to: str
    kind: str


Some = TypeVar("Some", bound=Sent)


def chosen(network: Iterable[Some], words: Sequence[str]) -> list[Some]:
    """Messages of "1->2", "1->*" or "all", maybe of one kind only."""
    links = [word for word in words if "->" in word]
    kinds = [word for word in words if "->" not in word and word != "all"]
    return [
        message
        for message in network
        if (not links or any(fits(link, message) for link in links))
        and (not kinds or any(message.kind.startswith(kind) for kind in kinds))
    ]


def fits(link: str, message: Sent) -> bool:
    """Whether a message is on the link "1->2", "*->2" or "1->*"."""
    source, to = link.split("->")
    return source in ("*", message.source) and to in ("*", message.to)


def held_write(write: replication_pb2.EventualWrite) -> str:
    """An eventual write in words."""
    what = f"delete {write.key.decode()}" if write.deletion else f"put {write.key.decode()}={write.value.decode()}"
    return f"{write.node}.{write.incarnation}.{write.sequence} base {write.base} {what}"
