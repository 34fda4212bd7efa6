"""The store: one suite for LMDB and for its fake in memory."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.storage import store as store_module
from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.store import KEY_SIZE_BYTES_MAX, LmdbStore, Store, successor

MIB = 1024 * 1024


@pytest.fixture(params=["lmdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made: Store = LmdbStore(tmp_path / "store", 64 * MIB) if request.param == "lmdb" else MemoryStore()
    yield made
    made.close()


def test_store_committed_rows_are_read_by_shard(store: Store) -> None:
    """Rows of different shards do not meet; absent keys are None; empty values are values."""
    assert store.get(0, b"a") is None
    store.commit({0: [(b"a", b"1"), (b"b", b"")], 1: [(b"a", b"2")]})
    assert store.get(0, b"a") == b"1"
    assert store.get(0, b"b") == b""
    assert store.get(1, b"a") == b"2"
    assert store.get(1, b"b") is None
    store.commit({0: [(b"a", None), (b"never there", None)], 1: [(b"a", b"3")]})
    assert store.get(0, b"a") is None
    assert store.get(1, b"a") == b"3"


def test_store_scan_yields_the_interval_in_byte_order(store: Store) -> None:
    """[start, end), never beyond the shard, for any bytes."""
    keys = [b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff"]
    store.commit({3: [(key, b"v" + key) for key in reversed(keys)], 2: [(b"z", b"")], 4: [(b"\x00", b"")]})
    assert [key for key, _ in store.scan(3, b"", None)] == keys
    assert list(store.scan(3, b"a", b"b")) == [(key, b"v" + key) for key in (b"a", b"a\x00", b"ab")]
    assert list(store.scan(3, b"aa", b"aa")) == []
    assert [key for key, _ in store.scan(3, b"b", None)] == [b"b", b"\xff", b"\xff\xff"]
    assert list(store.scan(9, b"", None)) == []
    assert [key for key, _ in store.scan(2, b"", None)] == [b"z"]


def test_store_scan_of_the_last_shard_ends(store: Store) -> None:
    """The shard whose prefix has no successor."""
    store.commit({65535: [(b"\xff" * 3, b"x")], 65534: [(b"a", b"y")]})
    assert list(store.scan(65535, b"", None)) == [(b"\xff" * 3, b"x")]
    assert list(store.scan(65534, b"", None)) == [(b"a", b"y")]


def test_store_takes_the_longest_keys_and_values(store: Store) -> None:
    """Limits of the API fit, with what the state machine puts in front."""
    store.commit({1: [(b"k" * KEY_SIZE_BYTES_MAX, b"v" * MIB)]})
    assert store.get(1, b"k" * KEY_SIZE_BYTES_MAX) == b"v" * MIB


def test_store_commit_takes_any_iterable_and_many_rows(store: Store) -> None:
    """Rows may come from a generator, and are more than one chunk; a later change of a key counts."""
    store.commit({1: ((b"%06d" % i, b"%d" % i) for i in range(1000)), 2: {b"x": None, b"y": b"1"}.items()})
    store.commit({1: [(b"%06d" % i, None) for i in range(0, 1000, 2)] + [(b"000001", b"a"), (b"000001", b"b")]})
    assert len(list(store.scan(1, b"", None))) == 500
    assert store.get(1, b"000001") == b"b"
    assert list(store.scan(2, b"", None)) == [(b"y", b"1")]


def test_store_commit_applies_changes_of_one_key_in_order(store: Store) -> None:
    """A deletion followed by a put leaves the put, and the other way round nothing."""
    store.commit({1: [(b"a", None), (b"a", b"1"), (b"b", b"1"), (b"b", None), (b"c", b"1"), (b"c", None), (b"c", b"2")]})
    assert list(store.scan(1, b"", None)) == [(b"a", b"1"), (b"c", b"2")]


def test_store_commit_that_raises_halfway_changes_nothing(store: Store) -> None:
    """An error in the caller's rows aborts the transaction, and the next one works."""

    def rows() -> Iterator[tuple[bytes, bytes]]:
        for i in range(600):
            yield b"%d" % i, b""
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.commit({0: [(b"a", b"")], 1: rows()})
    with pytest.raises(ValueError, match="no more"):
        store.replace(0, b"", rows())
    assert list(store.scan(0, b"", None)) == list(store.scan(1, b"", None)) == []
    store.commit({0: [(b"a", b"")]})
    assert store.get(0, b"a") == b""


def test_store_scan_goes_on_over_what_it_began_with(store: Store) -> None:
    """A commit in the middle of a scan does not change what it yields; reads after the commit see it."""
    store.commit({1: [(b"%03d" % i, b"old") for i in range(100)]})
    scan = store.scan(1, b"", None)
    first = [next(scan) for _ in range(50)]
    store.commit({1: [(b"%03d" % i, None if i % 2 else b"new") for i in range(100)]})
    assert store.get(1, b"000") == b"new"
    assert store.get(1, b"001") is None
    assert first + list(scan) == [(b"%03d" % i, b"old") for i in range(100)]


def test_store_snapshot_is_unaffected_by_later_commits(store: Store) -> None:
    """A snapshot is as of its beginning, however slowly it is read."""
    store.commit({1: [(b"a", b"1"), (b"b", b"1")], 2: [(b"c", b"")]})
    with store.snapshot(1) as rows:
        store.commit({1: [(b"a", None), (b"z", b"2")]})
        store.replace(1, b"", [(b"q", b"")])
        assert list(rows) == [(b"a", b"1"), (b"b", b"1")]
    with store.snapshot(1) as rows:
        assert list(rows) == [(b"q", b"")]
    with store.snapshot(7) as rows:
        assert list(rows) == []


@pytest.mark.parametrize("keep", [b"", b"m", b"\xff"])
def test_store_replace_deletes_all_but_the_kept_prefix(store: Store, keep: bytes) -> None:
    """What does not begin with the prefix goes, of this shard only; then the new rows are there, also over kept ones."""
    keys = [b"a", b"m", b"ma", b"mz", b"n", b"\xff", b"\xffx"]
    store.commit({1: [(key, b"old") for key in keys], 0: [(b"a", b"0")], 2: [(b"a", b"2")]})
    store.replace(1, keep, [(b"a", b"new"), (b"mb", b"new"), (b"ma", b"new")])
    expected = {key: b"old" for key in keys if keep and key.startswith(keep)}
    expected.update({b"a": b"new", b"mb": b"new", b"ma": b"new"})
    assert dict(store.scan(1, b"", None)) == expected
    assert (store.get(0, b"a"), store.get(2, b"a")) == (b"0", b"2")


@given(
    commits=st.lists(
        st.dictionaries(
            st.integers(0, 2),
            st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=4)), max_size=8),
        ),
        max_size=5,
    ),
    start=st.binary(max_size=2),
    end=st.none() | st.binary(max_size=2),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_store_lmdb_and_memory_agree(
    tmp_path: Path,
    commits: list[dict[int, list[tuple[bytes, bytes | None]]]],
    start: bytes,
    end: bytes | None,
) -> None:
    """The fake is verified: the same commits, the same rows."""
    with closing(LmdbStore(tmp_path / "store", 16 * MIB)) as real:
        fake = MemoryStore()
        for shard in range(3):
            real.replace(shard, b"", [])
        for rows in commits:
            real.commit(rows)
            fake.commit(rows)
        for shard in range(3):
            assert list(real.scan(shard, start, end)) == list(fake.scan(shard, start, end))


def test_store_lmdb_reopened_has_what_was_committed(tmp_path: Path) -> None:
    """Durable, and readable after a restart."""
    store = LmdbStore(tmp_path, 16 * MIB)
    store.commit({1: [(b"a", b"1")]})
    store.close()
    store = LmdbStore(tmp_path, 16 * MIB)
    assert store.get(1, b"a") == b"1"
    store.close()


def test_store_lmdb_syncs_that_its_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure might leave synced rows without a name, while the log was cut already. A store that is only read
    syncs nothing and makes nothing."""
    synced: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(store_module, "sync_entries", lambda path: synced.append((path, sorted(os.listdir(path)))))
    LmdbStore(tmp_path / "store", 1024**3).close()
    assert synced == [(str(tmp_path / "store"), ["data.mdb", "lock.mdb"])]
    (tmp_path / "store" / "lock.mdb").unlink()
    LmdbStore(tmp_path / "store", 1024**3, is_read_only=True).close()
    assert len(synced) == 1
    assert os.listdir(tmp_path / "store") == ["data.mdb"]


def test_store_without_space_changes_nothing_and_goes_on_reading(tmp_path: Path) -> None:
    """A full map, or a full fake: OutOfSpace, all rows as before, and smaller commits still work."""
    for store in (LmdbStore(tmp_path, MIB), MemoryStore(size_bytes_max=MIB)):
        store.commit({1: [(b"a", b"1")]})
        with pytest.raises(OutOfSpace, match="nothing was changed"):
            store.commit({1: [(b"a", b"2"), *((b"%d" % i, bytes(1000)) for i in range(2000))]})
        with pytest.raises(OutOfSpace):
            store.replace(1, b"", ((b"%d" % i, bytes(1000)) for i in range(2000)))
        assert list(store.scan(1, b"", None)) == [(b"a", b"1")]
        store.commit({1: [(b"a", b"3")]})
        assert store.get(1, b"a") == b"3"
        store.close()


class _FailingEnvironment:
    """An LMDB environment whose write transactions fail as they do when the disk does."""

    def __init__(self, error: lmdb.Error) -> None:
        self._error = error

    def begin(self, **_: object) -> None:
        raise self._error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (lmdb.DiskError("No space left on device"), OutOfSpace),
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), OutOfSpace),
        (lmdb.Error("mdb_txn_commit: Input/output error"), DiskFailed),
        (lmdb.PanicError("meta"), DiskFailed),
    ],
)
def test_store_lmdb_errors_become_ours(tmp_path: Path, error: lmdb.Error, raised: type[Exception]) -> None:
    """A full disk may pass; anything else is final."""
    store = LmdbStore(tmp_path, MIB)
    environment = store._env
    store._env = _FailingEnvironment(error)
    with pytest.raises(raised):
        store.commit({1: [(b"a", b"1")]})
    store._env = environment
    if raised is DiskFailed:
        with pytest.raises(DiskFailed):
            store.commit({1: [(b"a", b"1")]})
    else:
        store.commit({1: [(b"a", b"1")]})
    store.close()


def test_store_lmdb_write_cut_short_by_a_full_disk_is_out_of_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB calls it an input/output error; that the disk is full tells it from one."""
    store = LmdbStore(tmp_path, MIB)
    environment = store._env
    store._env = _FailingEnvironment(lmdb.Error("mdb_txn_commit: Input/output error"))
    full = os.statvfs_result([4096, 4096, 100, 7, 7, 100, 7, 7, 0, 255])
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(OutOfSpace):
            store.commit({1: [(b"a", b"1")]})
    store._env = environment
    store.commit({1: [(b"a", b"1")]})
    store.close()


def test_store_memory_failed_commit_is_there_or_not_after_a_crash() -> None:
    """Nobody knows before; both happen."""
    outcomes = []
    for seed in range(20):
        store = MemoryStore(random.Random(seed))
        store.commit({1: [(b"a", b"1")]})
        store.fail_next_commit()
        with pytest.raises(DiskFailed):
            store.commit({1: [(b"a", b"2")]})
        with pytest.raises(DiskFailed):
            store.commit({1: [(b"a", b"3")]})
        assert store.get(1, b"a") == b"1"
        store.crash()
        outcomes.append(store.get(1, b"a"))
        store.commit({1: [(b"a", b"4")]})
        assert store.get(1, b"a") == b"4"
    assert b"1" in outcomes
    assert b"2" in outcomes
    assert b"3" not in outcomes


def test_store_lmdb_on_a_file_that_is_none_is_corrupt(tmp_path: Path) -> None:
    """A damaged file is refused with a hint, not overwritten."""
    (tmp_path / "data.mdb").write_bytes(b"\x07" * 8192)
    with pytest.raises(Corrupt, match="restore the whole data directory"):
        LmdbStore(tmp_path, MIB)
    assert (tmp_path / "data.mdb").read_bytes() == b"\x07" * 8192


def test_store_lmdb_reads_do_not_keep_old_pages(tmp_path: Path) -> None:
    """The shared read transaction is given up at each commit, so rewriting the same rows does not let the file grow."""
    store = LmdbStore(tmp_path, 64 * MIB)
    for _ in range(30):
        store.commit({1: [(b"%03d" % i, bytes(1000)) for i in range(100)]})
        store.get(1, b"000")
    assert store.size_bytes < 2 * MIB
    store.close()


def test_store_lmdb_reads_during_commits_see_whole_transactions(tmp_path: Path) -> None:
    """Two rows of one transaction are never seen apart, and what a finished commit wrote is seen at once."""
    store = LmdbStore(tmp_path, 16 * MIB)
    store.commit({1: [(b"a", b"0"), (b"b", b"0")]})
    finished = 0

    def write() -> None:
        nonlocal finished
        for i in range(1, 100):
            store.commit({1: [(b"a", b"%d" % i), (b"b", b"%d" % i)]})
            finished = i

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        before = finished
        (_, a), (_, b) = store.scan(1, b"", None)
        assert a == b
        assert int(a) >= before
        assert int(store.get(1, b"a") or b"") >= before
    thread.join()
    store.close()


@pytest.mark.parametrize(
    ("prefix", "after"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", None), (b"", None), (b"a\x00", b"a\x01")]
)
def test_successor_is_the_first_key_behind_a_prefix(prefix: bytes, after: bytes | None) -> None:
    """Where a prefix ends."""
    assert successor(prefix) == after
