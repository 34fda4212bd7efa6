"""Snapshots as chunks, and the staging file."""

from __future__ import annotations

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.storage.disk import OutOfSpace
from kvnode.storage.snapshot import Staging, decode_chunk, encode_chunks, remove_leftovers
from tests.unit.storage.conftest import Machine

ROWS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300)), max_size=30)


def some_rows(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"key%04d" % i, b"%d" % i * 20) for i in range(count)]


def append_all(staging: Staging, chunks: list[bytes]) -> None:
    for chunk in chunks:
        staging.append(staging.size_bytes, chunk, google_crc32c.value(chunk))


@given(ROWS, st.integers(1, 2000))
@settings(max_examples=80)
def test_chunks_decoded_are_the_rows_and_no_longer_than_asked_for(rows: list[tuple[bytes, bytes]], size_bytes: int) -> None:
    """Each chunk is whole rows; only a single row may be longer than a chunk."""
    chunks = list(encode_chunks(rows, size_bytes))
    decoded = [decode_chunk(chunk) for chunk in chunks]
    assert [row for chunk in decoded for row in chunk] == rows
    assert all(len(chunk) <= size_bytes or len(rows) == 1 for chunk, rows in zip(chunks, decoded, strict=True))
    assert all(decoded)


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_chunk_arbitrary_bytes_are_rows_or_corrupt(data: bytes) -> None:
    """Malformed chunks raise nothing else."""
    try:
        rows = decode_chunk(data)
    except Corrupt:
        return
    assert b"".join(encode_chunks(rows, 10**6)) == data


def test_staging_yields_what_was_appended(machine: Machine) -> None:
    """The rows come back, in order, once everything is there."""
    rows = some_rows(2000)
    chunks = list(encode_chunks(rows, 4096))
    staging = Staging(machine.disk, 3)
    append_all(staging, chunks)
    assert staging.size_bytes == sum(len(chunk) for chunk in chunks)
    assert list(staging.finish()) == rows
    staging.discard()
    assert machine.disk.names() == []


def test_staging_of_an_empty_snapshot_yields_nothing(machine: Machine) -> None:
    """A shard without rows."""
    staging = Staging(machine.disk, 3)
    assert list(staging.finish()) == []
    staging.discard()


def test_staging_ignores_duplicates_and_refuses_gaps(machine: Machine) -> None:
    """A chunk sent twice is harmless; one that is missing, or cut in another place, is told."""
    chunks = list(encode_chunks(some_rows(100), 512))
    crcs = [google_crc32c.value(chunk) for chunk in chunks]
    staging = Staging(machine.disk, 3)
    staging.append(0, chunks[0], crcs[0])
    staging.append(0, chunks[0], crcs[0])
    with pytest.raises(ValueError, match="does not continue"):
        staging.append(len(chunks[0]) + 1, chunks[1], crcs[1])
    with pytest.raises(ValueError, match="does not continue"):
        staging.append(len(chunks[0]) - 1, chunks[1], crcs[1])
    for chunk, crc in zip(chunks[1:], crcs[1:], strict=True):
        staging.append(staging.size_bytes, chunk, crc)
        staging.append(0, chunks[0], crcs[0])
    assert list(staging.finish()) == some_rows(100)


def test_staging_refuses_a_chunk_whose_checksum_is_wrong(machine: Machine) -> None:
    """Damage on the way is found before it is written; the chunk can be sent again."""
    (chunk,) = encode_chunks(some_rows(3), 4096)
    staging = Staging(machine.disk, 3)
    with pytest.raises(Corrupt, match="send it again"):
        staging.append(0, chunk[:-1] + b"!", google_crc32c.value(chunk))
    append_all(staging, [chunk])
    assert list(staging.finish()) == some_rows(3)


def test_staging_damaged_on_the_disk_is_corrupt(machine: Machine) -> None:
    """Damage between writing and reading back is found before it is installed."""
    staging = Staging(machine.disk, 3)
    append_all(staging, list(encode_chunks(some_rows(100), 512)))
    machine.flip_bit("snapshot-3", 8 * 1000)
    with pytest.raises(Corrupt, match="snapshot-3: the chunk at byte"):
        list(staging.finish())


def test_staging_without_space_refuses_the_chunk_and_keeps_the_others(machine: Machine) -> None:
    """A full disk is met before anything is written."""
    staging = Staging(machine.disk, 3)
    (chunk,) = encode_chunks([(b"a", bytes(3 * 1024 * 1024))], 1)
    append_all(staging, [chunk])
    machine.limit(5 * 1024 * 1024)
    with pytest.raises(OutOfSpace):
        append_all(staging, [chunk])
    assert staging.size_bytes == len(chunk)
    staging.discard()
    assert machine.disk.has_space(4 * 1024 * 1024)


def test_staging_leftovers_are_removed_at_the_start(machine: Machine) -> None:
    """A transfer that was interrupted by a restart begins anew; other files stay."""
    append_all(Staging(machine.disk, 3), list(encode_chunks(some_rows(3), 4096)))
    append_all(Staging(machine.disk, 4), list(encode_chunks(some_rows(3), 4096)))
    machine.disk.preallocate("log-0000000000000001", 512)
    disk = machine.restart()
    assert list(Staging(disk, 3).finish()) == []
    remove_leftovers(disk)
    assert disk.names() == ["log-0000000000000001"]
