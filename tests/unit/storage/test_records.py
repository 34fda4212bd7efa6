"""The records of the log and their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.storage.records import (
    EntryRecord,
    EventualRecord,
    HardStateRecord,
    NodeRecord,
    Record,
    decode,
    decode_all,
    encode,
    encode_into,
)

U16, U64, U8 = st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(EntryRecord, U16, U64, U64, U8, st.binary(max_size=300)),
    st.builds(HardStateRecord, U16, U64, st.text(max_size=20), U64),
    st.builds(EventualRecord, U16, st.binary(max_size=300)),
    st.builds(NodeRecord, U8, st.binary(max_size=300)),
)


@given(RECORDS)
@settings(max_examples=150)
def test_record_encoded_then_decoded_is_the_same(record: Record) -> None:
    """Every field of every kind survives."""
    assert decode(encode(record)) == record


@given(st.lists(RECORDS, max_size=8))
@settings(max_examples=80)
def test_records_of_a_frame_encoded_then_decoded_are_the_same(records: list[Record]) -> None:
    """The flat loops agree with the single functions, in order, wherever the records lie in the data."""
    parts: list[bytes] = []
    size_bytes = encode_into(parts, records)
    data = b"".join(parts)
    assert len(data) == size_bytes
    assert decode_all(b"abc" + data + b"d", 3, 3 + size_bytes) == records
    assert data == b"".join(len(encode(record)).to_bytes(4, "little") + encode(record) for record in records)


@given(st.binary(max_size=60))
@settings(max_examples=150)
def test_record_arbitrary_bytes_are_a_record_or_corrupt(data: bytes) -> None:
    """No bytes raise anything else."""
    for read in (lambda: decode(data), lambda: decode_all(data, 0, len(data))):
        try:
            read()
        except Corrupt:
            pass


def test_record_of_unknown_type_is_corrupt_and_hints_at_a_newer_version() -> None:
    """A record from the future is refused, not skipped."""
    with pytest.raises(Corrupt, match="unknown type 9"):
        decode(b"\x09abc")


def test_record_encode_refuses_what_is_no_record() -> None:
    """A caller's mistake is not written to disk."""
    with pytest.raises(TypeError, match="tuple is not a record"):
        encode((1, 2))  # type: ignore[arg-type]
