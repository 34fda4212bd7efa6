"""What a leader knows of a follower."""

from __future__ import annotations

from kvnode.protocol.raft.progress import Mode, Progress


def test_progress_probe_answered_turns_to_replicate() -> None:
    """A first success ends the search."""
    progress = Progress(next=5, waiting=True)
    assert progress.on_success(7)
    assert (progress.mode, progress.match, progress.next, progress.waiting) == (Mode.REPLICATE, 7, 8, False)


def test_progress_late_success_while_probing_changes_nothing() -> None:
    """An old answer, below what is known: the probe goes on, and next stays above match."""
    progress = Progress(next=11, match=10, waiting=True)
    assert not progress.on_success(5)
    assert (progress.mode, progress.match, progress.next, progress.waiting) == (Mode.PROBE, 10, 11, True)


def test_progress_repeated_success_ends_an_empty_probe() -> None:
    """A probe without entries matches what is known already: that is its answer."""
    progress = Progress(next=11, match=10, waiting=True)
    assert not progress.on_success(10)
    assert (progress.mode, progress.next) == (Mode.REPLICATE, 11)


def test_progress_success_in_replicate_never_takes_next_back() -> None:
    """The pipeline is ahead of the answers."""
    progress = Progress(next=20, match=10, mode=Mode.REPLICATE)
    assert progress.on_success(12)
    assert (progress.match, progress.next) == (12, 20)


def test_progress_late_success_during_a_snapshot_does_not_end_it() -> None:
    """An answer to an append from before: the snapshot is on its way, a second one must not start beside it."""
    progress = Progress(next=11, match=10, mode=Mode.SNAPSHOT)
    assert not progress.on_success(10)
    assert progress.mode is Mode.SNAPSHOT
    assert progress.on_success(15)
    assert (progress.mode, progress.match) == (Mode.SNAPSHOT, 15)


def test_progress_probed_below_its_match_stays_behind_it() -> None:
    """`match < next` always."""
    progress = Progress(next=20, match=10, mode=Mode.REPLICATE)
    progress.probe(3)
    assert (progress.mode, progress.next) == (Mode.PROBE, 11)
