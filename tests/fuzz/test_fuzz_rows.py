"""Stored rows and records, damaged: `Corrupt`, and never another error; a snapshot of damaged rows is no snapshot."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.runtime.history import LEADERSHIPS, NODE_EVENTS
from kvnode.runtime.journal import Journal, Kind
from kvnode.runtime.recovery import Identity, replay
from kvnode.shard.rows import checked
from kvnode.shard.state_machine import DATA, META, Position, StateMachine
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord
from kvnode.storage.snapshot import decode_chunk, encode_chunks
from kvnode.storage.table import Table
from tests.fuzz.profile import fuzz
from tests.fuzz.states import SHARD, rows, store_of

ROWS = rows()
AT = StateMachine.position(dict(ROWS)[META])
Rows = list[tuple[bytes, bytes]]


@st.composite
def damaged_rows(draw: st.DrawFn) -> Rows:
    """The rows with one or two of them changed, by bits or altogether."""
    found = list(ROWS)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(found) - 1))
        key, value = found[at]
        kind = draw(st.sampled_from(("flip", "flip", "cut", "longer", "other", "row of another", "key")))
        if kind == "flip" and value:
            bit = draw(st.integers(0, len(value) * 8 - 1))
            value = value[: bit // 8] + bytes([value[bit // 8] ^ 1 << bit % 8]) + value[bit // 8 + 1 :]
        elif kind == "cut":
            value = value[: draw(st.integers(0, len(value)))]
        elif kind == "longer":
            value += draw(st.binary(min_size=1, max_size=20))
        elif kind == "other":
            value = draw(st.binary(max_size=80))
        elif kind == "row of another":
            value = found[draw(st.integers(0, len(found) - 1))][1]
        elif kind == "key":
            key = key[:1] + draw(st.binary(min_size=1, max_size=20))
        found[at] = (key, value)
    return sorted(dict(found).items())


def read_all(found: Rows) -> StateMachine:
    """Everything that a node reads of a shard: at the start, and for its clients."""
    machine = StateMachine(Table(SHARD, store_of(found)))
    StateMachine.position(machine.table.get(META))
    for key, _ in found:
        if key.startswith(DATA):
            machine.version(key[1:])
    assert len(list(machine.scan(b"", None))) == sum(key.startswith(DATA) for key, _ in found)
    return machine


@given(found=damaged_rows())
@fuzz(300)
def test_rows_that_are_damaged_are_read_or_corrupt(found: Rows) -> None:
    """A node that starts on damaged rows, or reads one for a client, says `Corrupt` or reads them: nothing else happens."""
    with suppress(Corrupt):
        read_all(found)


@given(found=damaged_rows())
@fuzz(300)
def test_snapshot_of_damaged_rows_is_refused_or_can_be_read(found: Rows) -> None:
    """What a snapshot's check lets through, a node can start on: nothing that it installs halts it."""
    try:
        taken = list(checked(found, AT))
    except Corrupt:
        return
    machine = read_all(taken)
    machine.before_freeze()
    assert Position(machine.applied, machine.applied_term) == AT


@given(data=st.data())
@fuzz(150)
def test_snapshot_with_rows_missing_repeated_or_out_of_order_is_refused(data: st.DataObject) -> None:
    """All rows in their order, and no others: what is neither counted nor ordered cannot be missed unnoticed."""
    # (The version of a deletion is not counted: it comes with its tombstone.)
    counted = [at for at, (key, row) in enumerate(ROWS) if key[:1] in b"dtsm" and not (key[:1] == b"d" and row[0])]
    found = list(ROWS)
    kind = data.draw(st.sampled_from(("missing", "twice", "order", "end")))
    if kind == "missing":
        del found[data.draw(st.sampled_from(counted))]
    elif kind == "twice":
        at = data.draw(st.integers(0, len(found) - 1))
        found.insert(data.draw(st.integers(0, len(found))), found[at])
    elif kind == "order":
        one, other = sorted(data.draw(st.sets(st.integers(0, len(found) - 1), min_size=2, max_size=2)))
        found[one], found[other] = found[other], found[one]
    else:
        del found[data.draw(st.integers(0, counted[-1])) :]
    with pytest.raises(Corrupt):
        list(checked(found, AT))


def test_snapshot_that_is_whole_is_taken_as_it_is() -> None:
    """The check changes nothing, and demands nothing that real rows do not have."""
    assert tuple(checked(iter(ROWS), AT)) == ROWS


@given(position=st.tuples(st.integers(0, 20), st.integers(0, 3)))
@fuzz(20)
def test_snapshot_of_another_position_is_refused(position: tuple[int, int]) -> None:
    """The rows say which index and term they are the state of."""
    if position != tuple(AT):
        with pytest.raises(Corrupt):
            list(checked(ROWS, Position(*position)))


@given(size=st.integers(1, 300), cut=st.integers(0, 400), bit=st.integers(0, 3000))
@fuzz(150)
def test_chunks_that_are_damaged_are_rows_or_corrupt(size: int, cut: int, bit: int) -> None:
    """A chunk is whole rows, or `Corrupt`; what comes out of a damaged one encodes to the damaged bytes."""
    for chunk in encode_chunks(ROWS, size):
        changed = bytearray(chunk[:cut] if cut < len(chunk) else chunk)
        if bit // 8 < len(changed):
            changed[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_chunk(bytes(changed))
        except Corrupt:
            continue
        assert b"".join(encode_chunks(found, 2**30)) == bytes(changed)


u64 = st.integers(0, 2**64 - 1)
some_bytes = st.binary(max_size=60) | st.sampled_from(
    (b"", b"{}", b"[]", b"[" * 3000, b"1" * 5000, b"-1", b'{"n1": 5}', b"\xff")
)
some_records = st.lists(
    st.builds(NodeRecord, st.integers(0, 20), some_bytes)
    | st.builds(EventualRecord, st.integers(0, 2), some_bytes)
    | st.builds(EntryRecord, st.integers(0, 2), u64, u64, st.integers(0, 3), some_bytes)
    | st.builds(HardStateRecord, st.integers(0, 2), u64, st.text(max_size=5), u64),
    max_size=8,
)


@given(found=some_records)
@fuzz(200)
def test_records_that_no_node_wrote_are_replayed_or_corrupt(found: list[EntryRecord | NodeRecord]) -> None:
    """Records with the right checksums and any content: recovery sorts them, or says `Corrupt`."""
    try:
        recovered = replay(found)
        for shard in list(recovered.shards):
            recovered.shard(shard).log(shard, 1, 1, 10)
    except Corrupt:
        return
    assert all(isinstance(uid, str) for uid in recovered.peer_uids.values())


@given(data=some_bytes)
@fuzz(100)
def test_identity_and_events_of_arbitrary_bytes_are_read_or_corrupt(data: bytes) -> None:
    """The data directory's identity, and the events of both journals: stored, logged, and of earlier releases."""

    def journal(kind: Kind, *where: object) -> None:
        Journal(None, kind, *where)  # type: ignore[arg-type]

    for decode in (
        lambda: Identity.decode(data),
        *(
            partial(journal, kind, *where)
            for kind in (NODE_EVENTS, LEADERSHIPS)
            for where in (
                ([(kind.row + bytes(8), data)],),
                ([(kind.row + data, b"")],),
                ([], [data]),
                ([], [bytes(8) + data]),
                ([], [], [data]),
            )
        ),
    ):
        try:
            decode()
        except Corrupt:
            continue
