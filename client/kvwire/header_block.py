"""Header blocks (HPACK, RFC 7541), with a dynamic table of size zero in both directions.

We announce SETTINGS_HEADER_TABLE_SIZE 0. Until the peer acknowledges that, its blocks may use the default table, and the
`hpack` library decodes them. Afterwards each field stands alone: fields and whole blocks are remembered decoded, a plain
literal costs two slices, and only what is Huffman-coded goes to the library. What we send never uses the table at all.

Limits hold before anything is built: the size of the block, the number of fields, the size of the list they expand to.
"""

from __future__ import annotations

from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from kvwire import limits
from kvwire.frames import COMPRESSION_ERROR, ProtocolError

Field = tuple[bytes, bytes]
STATIC: Final = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(STATIC, 1)))}
_STATIC_FIELDS: Final = {field: index for index, field in enumerate(STATIC, 1)}


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


class HeaderDecoder:
    """Decodes one connection's blocks, in the order of their arrival."""

    __slots__ = ("_fields", "_limit", "_stateful", "blocks")

    def __init__(self, list_size_bytes_max: int) -> None:
        self._limit = list_size_bytes_max
        # A list somewhat too large is refused by its call alone, which the library's limit would not permit.
        self._stateful: Decoder | None = Decoder(max_header_list_size=list_size_bytes_max * 4)
        self._fields: dict[bytes, Field] = {}
        self.blocks: dict[bytes, object] = {}
        """What the owner made of whole blocks; its own memo, kept here because it must begin with `forget_table`."""

    @property
    def is_stateless(self) -> bool:
        """Whether a block means the same wherever it stands, so that it may be remembered."""
        return self._stateful is None

    def forget_table(self) -> None:
        """The peer has acknowledged that the dynamic table has no size any more."""
        self._stateful = None

    def remember(self, block: bytes, made: object, fields: int) -> None:
        """Keeps what was made of a block with so many fields, if it may be remembered."""
        if (
            self._stateful is None
            and len(block) <= limits.HEADER_MEMO_ENTRY_SIZE_BYTES_MAX
            and fields <= limits.HEADER_MEMO_FIELDS_MAX
        ):
            if len(self.blocks) >= limits.HEADER_MEMO_ENTRIES_MAX:
                self.blocks.clear()
            self.blocks[block] = made

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block. Raises `ProtocolError` (COMPRESSION_ERROR, the connection ends), `HeadersTooLarge`."""
        try:
            if self._stateful is not None:
                fields = [(bytes(name), bytes(value)) for name, value in self._stateful.decode(block, raw=True)]
            else:
                fields = self._decode_stateless(block)
        except OversizedHeaderListError as error:
            # The table may not have seen all of the block: nothing that follows can be trusted.
            raise ProtocolError(COMPRESSION_ERROR, f"a header list of far more than {self._limit} bytes") from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ProtocolError(COMPRESSION_ERROR, f"a header block cannot be decoded: {error}") from error
        size = list_size(fields)
        if size > self._limit or len(fields) > limits.HEADER_FIELDS_MAX:
            raise HeadersTooLarge(size)
        return fields

    def _decode_stateless(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
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
                field = found if found is not None else self._literal(raw, 6 if first & 0x40 else 4)
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
        # The library speaks of whole fields: an unnamed literal around the string.
        field = next(
            iter(Decoder(max_header_list_size=size_max + 64).decode(b"\x00\x01x" + integer(size, 7, 0x80) + value, True))
        )
        value = bytes(field[1])
    return value, position + size
