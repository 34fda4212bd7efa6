"""A shard's log in memory: the tail that is not applied everywhere yet, behind it one known (index, term).

Owns which entries exist and which of them are on this node's disk (`stable`). Never touches the disk itself.
Invariants: indexes are contiguous; `offset <= stable <= last_index`; a committed entry is never truncated (checked by the
caller, who knows the commit index).
"""

from __future__ import annotations

from collections.abc import Sequence

from kvnode.invariant import invariant
from kvnode.types import Entry, Index, Term


class RaftLog:
    """Entries `offset + 1 .. last_index`; of `offset` itself only the term is known."""

    def __init__(self, offset: Index = 0, offset_term: Term = 0, entries: Sequence[Entry] = ()) -> None:
        self.offset = offset
        self.offset_term = offset_term
        self._entries = list(entries)
        self.stable = self.last_index
        """Last index known to be on this node's disk. What a log is recovered with is on disk."""
        invariant(
            not entries or entries[0].index == offset + 1, f"log begins at {entries and entries[0].index}, not behind {offset}"
        )

    @property
    def first_index(self) -> Index:
        """First index whose entry is here; `last_index + 1` when there is none."""
        return self.offset + 1

    @property
    def last_index(self) -> Index:
        """Index of the last entry."""
        return self.offset + len(self._entries)

    @property
    def last_term(self) -> Term:
        """Term of the last entry."""
        return self._entries[-1].term if self._entries else self.offset_term

    def term(self, index: Index) -> Term | None:
        """Term of the entry at `index`; None where the log does not reach."""
        position = index - self.offset - 1
        if position == -1:
            return self.offset_term
        return self._entries[position].term if 0 <= position < len(self._entries) else None

    def entry(self, index: Index) -> Entry:
        """The entry at `index`, which must be here."""
        invariant(self.offset < index <= self.last_index, f"entry {index} is not in the log ({self.offset}, {self.last_index}]")
        return self._entries[index - self.offset - 1]

    def slice(self, first: Index, size_bytes_max: int) -> list[Entry]:
        """Entries from `first` on, at least one where there is one, until their data exceed `size_bytes_max`."""
        invariant(first > self.offset, f"entry {first} is cut, the log begins behind {self.offset}")
        chosen: list[Entry] = []
        size = 0
        for position in range(first - self.offset - 1, len(self._entries)):
            entry = self._entries[position]
            size += len(entry.data) + 16
            if chosen and size > size_bytes_max:
                break
            chosen.append(entry)
        return chosen

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries at the end; they are not stable yet."""
        if entries:
            invariant(entries[0].index == self.last_index + 1, f"append at {entries[0].index} behind {self.last_index}")
            self._entries.extend(entries)

    def truncate(self, first_removed: Index) -> None:
        """Removes the entries from `first_removed` on: a leader's log disagreed."""
        invariant(first_removed > self.offset, f"truncation at {first_removed} reaches behind {self.offset}")
        del self._entries[first_removed - self.offset - 1 :]
        self.stable = min(self.stable, self.last_index)

    def on_durable(self, index: Index, term: Term) -> None:
        """The disk holds everything up to the entry (index, term). Void if that entry has been replaced meanwhile."""
        if index > self.stable and self.term(index) == term:
            self.stable = index

    def tail_start(self, last: Index, size_bytes_max: int) -> Index:
        """The smallest index whose following entries, up to `last`, have at most `size_bytes_max` bytes of data."""
        index = min(last, self.last_index)
        while index > self.offset:
            size_bytes_max -= len(self._entries[index - self.offset - 1].data) + 16
            if size_bytes_max < 0:
                break
            index -= 1
        return index

    def compact(self, index: Index) -> None:
        """Forgets entries up to `index`; the store holds their effects durably (DESIGN section 12.14)."""
        if index <= self.offset:
            return
        term = self.term(index)
        invariant(term is not None and index <= self.stable, f"compaction to {index} of a log stable to {self.stable}")
        del self._entries[: index - self.offset]
        self.offset, self.offset_term = index, term or 0

    def reset(self, index: Index, term: Term) -> None:
        """A snapshot up to (index, term) replaced the state. Entries behind it stay only if they continue it (section 5)."""
        if self.term(index) == term:
            self.stable = max(self.stable, index)
            self.compact(index)
            return
        self._entries.clear()
        self.offset, self.offset_term, self.stable = index, term, index

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Whether a candidate's log is at least as up to date as this one (section 3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def conflict_hint(self, index: Index, term_limit: Term) -> tuple[Index, Term]:
        """Largest index at or below `index` whose term is at most `term_limit`: where two logs may still match.

        Section 3.5's acceleration: one rejection skips a whole term instead of one entry.
        """
        index = min(index, self.last_index)
        while index > self.offset:
            term = self._entries[index - self.offset - 1].term
            if term <= term_limit:
                return index, term
            index -= 1
        return self.offset, self.offset_term
