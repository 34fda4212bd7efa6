"""What no correct leader says: checked before a message changes anything, so that nonsense is refused and halts nobody.

Pure: looks at a replica's Raft state, never changes it. What a lying leader of a *new* term says cannot be told from the truth,
and is no concern of this module (docs/fuzzing.md says where the line is).
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from kvapi.v1 import replication_pb2
from kvnode.protocol.raft.core import Raft
from kvnode.protocol.raft.role import ENTRY_COMMAND, Role
from kvnode.types import Index, NodeName, Term

NUMBER_MAX = 1 << 62
"""Of terms, indexes and sequences: they fit their 64 bits, however often they are counted up from there."""
TERMS_AHEAD_MAX = 1 << 32
"""A term so far above this replica's has not come about by elections; adopting it could use up all terms there are."""


def why_not_term(r: Raft, term: Term) -> str | None:
    """Why nobody can be in this term; None: somebody can."""
    if term > r.term and term > min(r.term + TERMS_AHEAD_MAX, NUMBER_MAX):
        return f"{term} is out of reach of shard {r.shard}, which is in term {r.term}"
    return None


def why_not_leader(r: Raft, sender: NodeName, term: Term) -> str | None:
    """Why the sender cannot be the leader of this term; None: it can, or the term is over."""
    if term < r.term or (term == r.term and sender == r.leader):
        return None
    if sender not in r.voters:
        return f"{sender} does not vote in shard {r.shard} and cannot lead it"
    if not term:
        return "0 is the term before the first election; nobody leads in it"
    other = r.me if r.role is Role.LEADER else r.leader
    if term == r.term and other not in ("", sender):
        return f"{other} leads shard {r.shard} in term {term}; a term has one leader"
    return why_not_term(r, term)


def why_not_append(r: Raft, append: replication_pb2.ShardAppend) -> str | None:
    """Why no leader sends such entries; None: one may."""
    # Each field is read once: this is done for every entry on every follower.
    term, before, previous, entries = append.term, append.previous_term, append.previous_index, append.entries
    if max(previous + len(entries), append.commit) > NUMBER_MAX or before > term or (previous and not before):
        return f"no log has entry {previous} of term {before}, and {append.commit} committed, in term {term}"
    terms: list[Term] = []
    for entry in entries:
        of = entry.term
        if not before <= of <= term or not of:
            at = previous + len(terms) + 1
            return f"entry {at} of term {of} is behind one of term {before}, in an append of term {term}"
        if entry.kind != ENTRY_COMMAND or not _is_command(entry.data):
            return f"entry {previous + len(terms) + 1} is no command of this release"
        terms.append(of)
        before = of
    if term >= r.term and previous <= r.commit:
        return _contradiction(r, previous, append.previous_term, terms)
    return None


def _is_command(data: bytes) -> bool:
    try:
        return _parse(data).WhichOneof("operation") is not None
    except DecodeError:
        return False


_parse = replication_pb2.Command.FromString


def _contradiction(r: Raft, previous: Index, previous_term: Term, terms: list[Term]) -> str | None:
    """What is committed here and different there: one of the two is wrong, and nothing must be changed by it."""
    log = r.log
    if log.offset < previous <= r.commit and log.term(previous) != previous_term:
        return f"entry {previous} is committed here with term {log.term(previous)}, not {previous_term}"
    for index in range(max(previous, log.offset) + 1, min(previous + len(terms), r.commit) + 1):
        term = terms[index - previous - 1]
        if log.term(index) != term:
            return f"entry {index} is committed here with term {log.term(index)}, not {term}"
    return None
