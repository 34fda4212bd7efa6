"""Header blocks (HPACK, RFC 7541), with a dynamic table of size zero in both directions.

We announce SETTINGS_HEADER_TABLE_SIZE 0. Until the peer acknowledges that, its blocks may use the default table, and the
`hpack` library decodes them. Afterwards each field stands alone: fields and whole blocks are remembered decoded, a plain
literal costs two slices, and only what is Huffman-coded goes to the library. What we send never uses the table at all.

Limits hold before anything is built: the size of the block, the number of fields, the size of the list they expand to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from kvwire import limits
from kvwire.frames import COMPRESSION_ERROR, ProtocolError

Field = tuple[bytes, bytes]
STATIC: Final = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(STATIC, 1)))}
_STATIC_FIELDS: Final = {field: index for index, field in enumerate(STATIC, 1)}

BLOCK_WORK = 6
FIELDS_OF_WORK = 8
"""Bytes (64) and fields that count as one more frame of work, where they are not remembered."""


class HeadersTooLarge(Exception):
    """A header list above the limit. The block was decoded as far as the connection's state needs it."""

    def __init__(self, size: int) -> None:
        super().__init__(f"received metadata size exceeds limit ({size} bytes)")
        self.size = size


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer with a prefix of so many bits (§5.1), the byte's other bits as in `first`."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    encoded = bytearray((first | limit,))
    value -= limit
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode(name: bytes, value: bytes) -> bytes:
    """One field: from the static table where it is there, else a literal that is not indexed (§6.2.2), never Huffman-coded."""
    index = _STATIC_FIELDS.get((name, value))
    if index is not None:
        return bytes((0x80 | index,))
    known = _STATIC_NAMES.get(name)
    if known is not None:
        return integer(known, 4) + integer(len(value), 7) + value
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


def list_size(fields: list[Field]) -> int:
    """The size of a header list as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    return sum(len(name) + len(value) + 32 for name, value in fields)


class Head(Protocol):
    """What the owner of a decoder makes of a header list."""

    fields: list[Field]
    size: int
    malformed: str | None


class HeaderDecoder:
    """Decodes one connection's blocks, in the order of their arrival."""

    __slots__ = ("_beginnings", "_fields", "_limit", "_make", "_new_at", "_sizes", "_stateful", "blocks")

    def __init__(self, list_size_bytes_max: int, make: Callable[[list[Field], Any], Head]) -> None:
        """`make(fields, begun)`: what the owner makes of a list, or of the rest of one behind the fields of `begun`."""
        self._limit, self._make = list_size_bytes_max, make
        # A list somewhat too large is refused by its call alone, which the library's limit would not permit.
        self._stateful: Decoder | None = Decoder(max_header_list_size=list_size_bytes_max * 4)
        self._fields: dict[bytes, Field] = {}
        self._beginnings: dict[bytes, Head] = {}
        self._sizes: list[int] = []
        self._new_at: tuple[int, int] | None = None
        """Of the block decoded last: bytes and fields before the first field that had not been seen; None: all had been."""
        self.blocks: dict[bytes, Head] = {}
        """What was made of whole blocks that came before."""

    def forget_table(self) -> None:
        """The peer has acknowledged that the dynamic table has no size any more."""
        self._stateful = None

    def read(self, block: bytes) -> tuple[Head, int]:
        """What is made of a block that is not among `blocks`, and what that cost, in work. What it begins with may be
        remembered, where fields differ each time (a time-out, a trace). Raises as `decode`."""
        begun, known = self._beginning(block)
        fields = self.decode(block[known:] if known else block, 0 if begun is None else begun.size)
        cost = 1 + (len(block) - known >> BLOCK_WORK) + len(fields) // FIELDS_OF_WORK
        made = self._make(fields, begun)
        if self._stateful is None and len(block) <= limits.HEADER_MEMO_ENTRY_SIZE_BYTES_MAX:
            if self._new_at is None:
                self._remember(block, made)
            elif begun is None and 0 < self._new_at[1] <= limits.HEADER_MEMO_FIELDS_MAX:
                start, count = self._new_at
                if fields[count - 1][0][:1] == b":":
                    return made, cost  # More pseudo-headers may follow such a beginning.
                beginning = self._make(fields[:count], None)
                if beginning.malformed is None:
                    self._remember_beginning(block[:start], beginning)
        return made, cost

    def _beginning(self, block: bytes) -> tuple[Head | None, int]:
        """What was made of the fields that a block begins with, and their size in bytes. Without a table each field stands
        alone: bytes that were whole fields once are the same fields again."""
        for size in self._sizes:
            made = self._beginnings.get(block[:size])
            if made is not None:
                return made, size
        return None, 0

    def _remember(self, block: bytes, made: Head) -> None:
        if len(made.fields) <= limits.HEADER_MEMO_FIELDS_MAX:
            if len(self.blocks) >= limits.HEADER_MEMO_ENTRIES_MAX:
                self.blocks.clear()
            self.blocks[block] = made

    def _remember_beginning(self, beginning: bytes, made: Head) -> None:
        size = len(beginning)
        is_full = len(self._beginnings) >= limits.HEADER_MEMO_FIELDS_MAX
        if is_full or (size not in self._sizes and len(self._sizes) >= limits.HEADER_MEMO_BEGINNINGS_MAX):
            self._beginnings.clear()
            self._sizes.clear()
        if size not in self._sizes:
            self._sizes.append(size)
        self._beginnings[beginning] = made

    def decode(self, block: bytes, size_before: int = 0) -> list[Field]:
        """The fields of a block, or of the rest of one, behind fields of `size_before` as SETTINGS_MAX_HEADER_LIST_SIZE counts.
        Raises `ProtocolError` (COMPRESSION_ERROR, the connection ends), `HeadersTooLarge`."""
        try:
            if self._stateful is not None:
                fields = [(bytes(name), bytes(value)) for name, value in self._stateful.decode(block, raw=True)]
            else:
                fields = self._decode_stateless(block)
        except OversizedHeaderListError as error:
            # The table may not have seen all of the block: nothing that follows can be trusted.
            raise ProtocolError(COMPRESSION_ERROR, f"a header list of far more than {self._limit} bytes") from error
        except (HPACKError, IndexError, ValueError) as error:
            # (The library's words may hold addresses of this process; the peer reads ours.)
            raise ProtocolError(COMPRESSION_ERROR, f"a header block cannot be decoded ({type(error).__name__})") from error
        size = size_before + list_size(fields)
        if size > self._limit or len(fields) > limits.HEADER_FIELDS_MAX:
            raise HeadersTooLarge(size)
        return fields

    def _decode_stateless(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        self._new_at = None
        known, position, end, size, size_max = self._fields, 0, len(block), 0, 4 * self._limit
        while position < end:
            start, first = position, block[position]
            if first & 0x80:
                index, position = _integer(block, position, 7)
                field = _static(index)
            elif first & 0xE0 == 0x20:
                table_size, position = _integer(block, position, 5)
                if table_size:
                    raise ValueError("the dynamic table was given up")
                continue
            else:
                position = _end_of_literal(block, position, 6 if first & 0x40 else 4)
                if position > end:
                    raise ValueError("a field is cut short")
                raw = block[start:position]
                found = known.get(raw)
                if found is not None:
                    field = found
                else:
                    self._new_at = self._new_at or (start, len(fields))
                    field = self._literal(raw, 6 if first & 0x40 else 4)
            size += len(field[0]) + len(field[1]) + 32
            if size > size_max:  # What is referred to again and again expands a lot.
                raise HeadersTooLarge(size)
            fields.append(field)
        return fields

    def _literal(self, raw: bytes, bits: int) -> Field:
        index, position = _integer(raw, 0, bits)
        name, position = (_static(index)[0], position) if index else _string(raw, position, self._limit)
        value, _ = _string(raw, position, self._limit)
        if len(raw) <= limits.HEADER_MEMO_ENTRY_SIZE_BYTES_MAX:
            if len(self._fields) >= limits.HEADER_MEMO_ENTRIES_MAX:
                self._fields.clear()
            self._fields[raw] = (name, value)
        return name, value


def _static(index: int) -> Field:
    if not 0 < index <= len(STATIC):
        raise ValueError(f"no field has index {index}")
    return STATIC[index - 1]


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value = block[position] & limit
    position += 1
    if value < limit:
        return value, position
    for shift in (0, 7, 14, 21):  # At most 2^28: anything longer is an attack.
        byte = block[position]
        position += 1
        value += (byte & 127) << shift
        if not byte & 128:
            return value, position
    raise ValueError("an integer is too long")


def _end_of_literal(block: bytes, position: int, bits: int) -> int:
    """Where the literal field at `position` ends."""
    index, position = _integer(block, position, bits)
    if not index:
        size, position = _integer(block, position, 7)
        position += size
    size, position = _integer(block, position, 7)
    return position + size


def _string(raw: bytes, position: int, size_max: int) -> tuple[bytes, int]:
    is_huffman = raw[position] & 0x80
    size, position = _integer(raw, position, 7)
    value = raw[position : position + size]
    if is_huffman:
        if size > size_max:
            raise ValueError("a string is longer than the whole list may be")
        value = bytes(decode_huffman(value))
    return value, position + size
