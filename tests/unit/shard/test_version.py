"""A version's row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.shard.version import Version, decode_version, encode_version

U64 = st.integers(0, 2**64 - 1)
NODES = st.text(max_size=63).filter(lambda text: len(text.encode()) < 256)


@given(st.builds(Version, U64, U64, U64, U64, U64, NODES, U64, st.none() | st.binary(max_size=300)))
def test_version_encoded_decodes_to_itself(version: Version) -> None:
    """An empty value is no tombstone; any origin's name fits."""
    assert decode_version(encode_version(version)) == version


@pytest.mark.parametrize("size", [0, 1, 49, 50, 51])
def test_version_cut_short_is_corrupt(size: int) -> None:
    """A row that ends within its header or its origin's name is not taken for a value."""
    row = encode_version(Version(1, 1, 1, 1, 1, "node", 1, b""))
    with pytest.raises(Corrupt):
        decode_version(row[:size])
