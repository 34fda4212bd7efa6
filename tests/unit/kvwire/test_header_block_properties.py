"""Header blocks against the `hpack` library: what we write it reads, what it writes we read, with the table and without.

The library is the oracle; where it is more generous than RFC 7541 demands, that is said.
"""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st

from kvwire import header_block, limits
from kvwire.frames import COMPRESSION_ERROR, ProtocolError
from kvwire.header_block import STATIC, Field, HeaderDecoder, HeadersTooLarge, encode, integer, list_size
from kvwire.heads import RequestHead
from tests.fuzz.profile import fuzz
from tests.wire import frames as h2

LIST_BYTES = 16 * 1024

texts = st.one_of(st.binary(max_size=40), st.sampled_from((b"", b"a", b"0" * 126, b"1" * 127, b"~" * 128, b"x" * 300)))
names = st.one_of(st.sampled_from([name for name, _ in STATIC]), st.binary(min_size=1, max_size=20))
fields = st.one_of(st.tuples(names, texts), st.sampled_from(STATIC))
lists = st.lists(fields, max_size=12)
"""Short enough for the limits; those have tests of their own."""


def stateful() -> HeaderDecoder:
    """A decoder that follows the peer's table."""
    return HeaderDecoder(LIST_BYTES, RequestHead)


def stateless() -> HeaderDecoder:
    """A decoder whose peer has given the table up."""
    decoder = stateful()
    decoder.forget_table()
    return decoder


def decoded(decoder: HeaderDecoder, block: bytes) -> list[Field] | str:
    """The fields, or the word for the refusal: nothing else may come out of a decoder."""
    try:
        return decoder.decode(block)
    except HeadersTooLarge:
        return "too large"
    except ProtocolError as error:
        return "error" if error.code == COMPRESSION_ERROR else "another error"


def by_the_library(block: bytes, table_size: int = 0) -> list[Field] | str:
    """The same, by the library, with a table of so many bytes."""
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = decoder.header_table_size = table_size
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except (HPACKError, IndexError, ValueError):
        return "error"


@fuzz(100)
@given(lists)
def test_header_block_of_ours_is_read_by_the_library(written: list[Field]) -> None:
    """Whoever reads it needs no table: not the library, and neither of our decoders."""
    block = b"".join(encode(name, value) for name, value in written)
    assert by_the_library(block) == written
    assert decoded(stateless(), block) == written
    assert decoded(stateful(), block) == written


@fuzz(60)
@given(st.lists(st.tuples(lists, st.booleans()), max_size=4))
def test_header_blocks_of_the_library_with_its_table_are_read_in_their_order(written: list[tuple[list[Field], bool]]) -> None:
    """Until the peer gives its table up, each block may refer to those before it."""
    encoder, decoder = hpack.Encoder(), stateful()
    for wanted, huffman in written:
        assert decoded(decoder, encoder.encode(wanted, huffman=huffman)) == wanted


@fuzz(60)
@given(st.lists(st.tuples(lists, st.booleans()), max_size=4))
def test_header_blocks_of_the_library_without_a_table_are_read_in_any_order(written: list[tuple[list[Field], bool]]) -> None:
    """Afterwards each block means the same wherever it stands; the size update that says so is read by both decoders."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    blocks = [encoder.encode(wanted, huffman=huffman) for wanted, huffman in written]
    with_table, without = stateful(), stateless()
    for (wanted, _), block in zip(written, blocks, strict=True):
        assert decoded(with_table, block) == wanted
        assert decoded(without, block) == wanted
    for (wanted, _), block in reversed(list(zip(written, blocks, strict=True))):
        assert decoded(without, block) == wanted


literals = st.builds(
    lambda first, index, name, value, huffman: (
        integer(index, 6 if first == 0x40 else 4, first)
        + (b"" if index else h2.string(name, huffman=huffman))
        + h2.string(value, huffman=huffman)
    ),
    st.sampled_from((0x00, 0x10, 0x40)),
    st.sampled_from((0, 0, 1, 15, 16, 61, 62, 70)),
    st.text(st.characters(max_codepoint=255), max_size=12),
    st.text(st.characters(max_codepoint=255), max_size=12),
    st.booleans(),
)
pieces = st.one_of(
    literals,
    literals,
    st.integers(0, 80).map(h2.indexed),
    st.sampled_from((b" ", b"!", h2.table_size(4096))),
    st.binary(max_size=4),
)
blocks = st.one_of(
    st.lists(pieces, max_size=8).map(b"".join),
    st.builds(lambda parts, cut: b"".join(parts)[:-cut], st.lists(pieces, min_size=1, max_size=4), st.integers(1, 3)),
    st.binary(max_size=60),
)


@fuzz(250)
@given(blocks)
def test_header_block_with_anything_in_it_is_read_as_the_library_reads_it_or_refused(block: bytes) -> None:
    """No block means one thing to us and another to the library: fields are equal, or somebody refuses."""
    ours, library = decoded(stateless(), block), by_the_library(block)
    assert ours != "another error"
    if isinstance(ours, list) and isinstance(library, list):
        assert ours == library
    elif isinstance(ours, list):
        # The library refuses size updates behind fields (§4.2), and more than two; to a table of size zero they mean nothing.
        assert by_the_library(bytes_without_size_updates(block)) == ours
    if len(block) <= limits.HEADER_MEMO_ENTRY_SIZE_BYTES_MAX:
        again = stateless()
        assert decoded(again, block) == decoded(again, block) == ours


def bytes_without_size_updates(block: bytes) -> bytes:
    """The block without its updates of the table's size to zero."""
    kept, position = bytearray(), 0
    while position < len(block):
        first, start = block[position], position
        if first & 0x80:
            _, position = header_block._integer(block, position, 7)
        elif first & 0xE0 == 0x20:
            _, position = header_block._integer(block, position, 5)
            continue
        else:
            position = header_block._end_of_literal(block, position, 6 if first & 0x40 else 4)
        kept += block[start:position]
    return bytes(kept)


@fuzz(100)
@given(lists, lists, st.integers(0, 100))
def test_header_block_that_is_remembered_is_read_as_if_it_were_not(first: list[Field], second: list[Field], times: int) -> None:
    """Remembering changes nothing, also when the memory of fields overflows in between."""
    decoder, one = stateless(), b"".join(encode(*field) for field in first)
    other = b"".join(encode(*field) for field in second)
    filler = b"".join(encode(b"x%d" % number, b"y") for number in range(times * 4))
    for block, wanted in ((one, first), (other, second), (one, first)):
        assert decoded(decoder, block) == wanted
        decoded(decoder, filler)
    assert len(decoder._fields) <= limits.HEADER_MEMO_ENTRIES_MAX


request_fields = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *[(b":method", b"POST"), (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a/b"), (b":path", b"/c")],
                *[(b":authority", b"one"), (b":authority", b"two"), (b"te", b"trailers"), (b"te", b"gzip")],
                *[(b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"), (b"grpc-timeout", b"2S")],
                *[(b"grpc-timeout", b"soon"), (b"grpc-encoding", b"gzip"), (b"x", b"1"), (b"x", b"2"), (b"x-bin", b"!")],
            ]
        ),
        st.tuples(st.just(b"y"), st.binary(max_size=2)),
    ),
    max_size=7,
)
whole_requests = st.builds(
    lambda path, authority, rest: [
        *[(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), *authority],
        *[(b"te", b"trailers"), (b"content-type", b"application/grpc"), *rest],
    ],
    st.sampled_from((b"/a/b", b"/c")),
    st.sampled_from(([], [(b":authority", b"one")], [(b":authority", b"two")], [(b":authority", b"three")])),
    request_fields,
)


@fuzz(150)
@given(st.lists(st.one_of(request_fields, whole_requests), max_size=12))
def test_heads_of_blocks_that_begin_alike_are_those_of_their_whole_lists(written: list[list[Field]]) -> None:
    """Whatever came before on a connection, and is remembered: each head says what its own list says."""
    decoder = stateless()
    for wanted in written:
        block = b"".join(encode(*field) for field in wanted)
        known = decoder.blocks.get(block)
        head = known if known is not None else decoder.read(block)[0]
        expected = RequestHead(list(wanted))
        assert bool(head.malformed) == bool(expected.malformed)
        if not expected.malformed:
            for name in ("fields", "size", "method", "path", "authority", "content_type", "encoding", "timeout", "metadata"):
                assert getattr(head, name) == getattr(expected, name), name
            assert head.timeout_is_bad == expected.timeout_is_bad


@fuzz(60)
@given(st.integers(0, 600), st.integers(0, 200), st.booleans())
def test_header_list_above_the_limit_is_refused_and_below_it_is_not(count: int, size: int, is_stateless: bool) -> None:
    """Both decoders count as SETTINGS_MAX_HEADER_LIST_SIZE does; far above it they end the connection."""
    written = [(b"name", b"v" * size)] * count
    block = b"".join(encode(*field) for field in written)
    outcome = decoded(stateless() if is_stateless else stateful(), block)
    if list_size(written) <= LIST_BYTES and count <= limits.HEADER_FIELDS_MAX:
        assert outcome == written
    elif list_size(written) <= 4 * LIST_BYTES:
        assert outcome == "too large"
    else:
        assert outcome in ("too large", "error")


@pytest.mark.parametrize("bits", range(4, 8))
@fuzz(40)
@given(st.integers(0, 2**28))
def test_integer_of_any_prefix_is_read_back_by_us_and_by_the_library(bits: int, value: int) -> None:
    """§5.1, in both directions."""
    encoded = integer(value, bits)
    assert hpack.hpack.decode_integer(encoded, bits) == (value, len(encoded))
    assert encoded == bytes(hpack.hpack.encode_integer(value, bits))
    if value < 2**28:
        assert header_block._integer(encoded, 0, bits) == (value, len(encoded))
