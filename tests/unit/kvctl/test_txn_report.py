"""What the nodes say about transactions, put together."""

from __future__ import annotations

from typing import Any

import pytest

from kvapi.v1 import cluster_pb2
from kvapi.v1 import two_phase_commit_pb2 as pb
from kvctl.output import Encoding
from kvctl.txn_report import Sighting, in_order, keys_text, one_per_shard, shards_text, standing, started, state_name

LEADERS = {3: "n1", 5: "n2", 7: "n3"}
STATES = {
    "prepared": pb.TRANSACTION_STATE_PREPARED,
    "committing": pb.TRANSACTION_STATE_COMMITTING,
    "committed": pb.TRANSACTION_STATE_COMMITTED,
    "aborted": pb.TRANSACTION_STATE_ABORTED,
}


def seen(node: str, shard: int, state: str, name: str = "9.aa", **more: Any) -> Sighting:
    """A replica's word on a transaction over the shards 3 (the anchor), 5 and 7."""
    leader = LEADERS.get(shard) == node
    place = {"anchor": 3, "participants": [3, 5, 7]} if state in ("prepared", "committing") else {}
    facts = {"leader": leader} | place | more
    return Sighting(node, cluster_pb2.TransactionInfo(transaction_id=name, shard=shard, state=STATES[state], **facts))


def test_followers_are_not_heard_where_the_leader_answers() -> None:
    """Also where the leader says nothing of the transaction: it knows more."""
    behind = seen("n2", 3, "prepared")
    word = seen("n1", 3, "committing")
    assert one_per_shard([behind, word], LEADERS) == [word]
    assert one_per_shard([word, behind], LEADERS) == [word]
    assert one_per_shard([behind], LEADERS) == []


def test_follower_that_knows_most_is_heard_where_no_leader_answers() -> None:
    """Something is better than nothing, and the latest state is the nearest to the truth."""
    less, most = seen("n2", 3, "prepared"), seen("n3", 3, "committed")
    assert one_per_shard([less, most], {}) == one_per_shard([most, less], {}) == [most]


def test_leader_that_the_map_does_not_know_yet_is_heard() -> None:
    """A replica knows first that it leads."""
    new = seen("n3", 3, "committed", leader=True)
    assert one_per_shard([seen("n1", 3, "prepared", leader=False), new], LEADERS) == [new]


def test_transactions_are_ordered_by_what_an_operator_looks_for() -> None:
    """The oldest under way first, the latest ended next; the anchor, and of a shard the leader, at the head."""
    names = [
        *(
            seen("n1", 5, "prepared", "10.bb", leader=False),
            seen("n2", 5, "prepared", "10.bb"),
            seen("n1", 3, "committing", "10.bb"),
        ),
        *(seen("n1", 3, "aborted", "3.cc"), seen("n1", 3, "aborted", "20.dd"), seen("n2", 5, "prepared", "9.aa")),
        *(seen("n2", 5, "committed", "9.aa"),),
    ]
    ordered = [(sighting.info.transaction_id, sighting.info.shard, sighting.node) for sighting in in_order(reversed(names))]
    assert ordered == [
        *(("9.aa", 5, "n2"), ("9.aa", 5, "n2")),
        *(("10.bb", 3, "n1"), ("10.bb", 5, "n2"), ("10.bb", 5, "n1")),
        *(("20.dd", 3, "n1"), ("3.cc", 3, "n1")),
    ]


ANCHOR, FIVE, SEVEN = seen("n1", 3, "prepared"), seen("n2", 5, "prepared"), seen("n3", 7, "prepared")


@pytest.mark.parametrize(
    ("sightings", "decision", "waits_for", "sentence"),
    [
        ([ANCHOR, FIVE, SEVEN], "", [3], "All its shards have voted yes. It waits for shard 3, its anchor, to decide."),
        ([ANCHOR, FIVE], "", [7], "Nothing is decided. It waits for the vote of shard 7; shard 3 decides."),
        ([SEVEN], "", [3, 5], "Nothing is decided. It waits for the votes of shards 3 and 5; shard 3 decides."),
        (
            [seen("n1", 3, "committing", unresolved=[5, 7]), FIVE, seen("n3", 7, "committed")],
            *("committed", [5]),
            "It is committed. It waits for shard 5 to apply its writes and give the locks back.",
        ),
        ([seen("n2", 5, "committed"), SEVEN], "committed", [7], "It is committed. It waits for shard 7 to apply its writes"),
        (
            [seen("n1", 3, "committed"), seen("n2", 5, "committed")],
            "committed",
            [],
            "It is committed; no shard that answers has anything left to do.",
        ),
        ([seen("n1", 3, "aborted"), FIVE], "aborted", [5], "It is aborted. It waits for shard 5 to give the locks back."),
        ([seen("n1", 3, "aborted")], "aborted", [], "It is aborted; no shard that answers holds a lock of it."),
        ([seen("n3", 3, "prepared", leader=False)], "", [5, 7], "Nothing is decided. It waits for the votes of shards 5 and 7"),
    ],
)
def test_standing_of_a_transaction_says_what_it_waits_for(
    sightings: list[Sighting], decision: str, waits_for: list[int], sentence: str
) -> None:
    """Whoever knows a decision is believed; without one, the votes that are missing count."""
    stands = standing(sightings, LEADERS)
    assert (stands.decision, stands.waits_for) == (decision, waits_for)
    assert stands.sentence.startswith(sentence)
    assert "No leader" not in stands.sentence


def test_standing_names_the_shards_whose_leaders_are_silent() -> None:
    """What is waited for cannot come from there."""
    assert standing([FIVE, SEVEN], {5: "n2", 7: "n3"}).sentence.endswith("shard 3 decides. No leader of shard 3 answers.")


def test_texts_of_states_shards_and_keys_read_well() -> None:
    """Words, numbers in a row, and no more keys than a cell can hold."""
    assert [state_name(pb.TRANSACTION_STATE_PREPARED), state_name(99)] == ["PREPARED", "99"]
    assert [started("12.ab"), started("x.ab"), started("")] == [12, 0, 0]
    assert [shards_text([3]), shards_text([3, 5]), shards_text([3, 5, 7])] == ["shard 3", "shards 3 and 5", "shards 3, 5 and 7"]
    assert keys_text(Encoding.TEXT, [b"a\x1b"], [b"user/"]) == r"a\x1b, user/*"
    assert keys_text(Encoding.HEX, [b"a", b"b", b"c"], [b"d", b"e"]) == "61, 62, 63 and 2 more"
