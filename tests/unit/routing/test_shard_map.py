"""Where shards live."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvnode.routing.shard_map import make_shard_map

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), min_size=1, max_size=8, unique=True)


def members(names: list[str]) -> dict[str, str]:
    """With addresses."""
    return {name: f"{name}:1" for name in names}


@given(NAMES, st.integers(1, 40), st.integers(1, 5))
def test_shard_map_of_any_order_of_members_is_the_same(names: list[str], shards: int, factor: int) -> None:
    """Every node computes it from its own configuration."""
    made = make_shard_map(members(names), shards, factor)
    assert made == make_shard_map(members(names[::-1]), shards, factor)
    assert made.shards == shards
    for replicas in made.replicas:
        assert len(replicas) == len(dict.fromkeys(replicas)) == min(factor, len(names))


@given(st.integers(1, 5), st.integers(1, 40))
def test_leaderships_are_dealt_out_evenly_where_all_nodes_hold_all_shards(nodes: int, shards: int) -> None:
    """Nobody is preferred for more than one shard above another."""
    names = [f"n{number}" for number in range(nodes)]
    preferred = [replicas[0] for replicas in make_shard_map(members(names), shards, nodes).replicas]
    counts = [preferred.count(name) for name in names]
    assert max(counts) - min(counts) <= 1


@given(NAMES, st.integers(1, 40), st.integers(1, 4))
def test_member_that_joins_takes_over_and_moves_nothing_else(names: list[str], shards: int, factor: int) -> None:
    """Rendezvous hashing: a shard's replicas change by the new node for one old, or not at all."""
    before = make_shard_map(members(names), shards, factor)
    after = make_shard_map(members([*names, "new-node"]), shards, factor)
    for old, new in zip(before.replicas, after.replicas, strict=True):
        left = [name for name in old if name not in new]
        joined = [name for name in new if name not in old]
        assert joined in ([], ["new-node"])
        assert len(left) <= len(joined)


def test_shards_over_many_nodes_are_spread() -> None:
    """Five nodes, 100 shards, three replicas each: 60 a node, more or less."""
    made = make_shard_map(members([f"n{number}" for number in range(5)]), 100, 3)
    held = [sum(name in replicas for replicas in made.replicas) for name in made.members]
    preferred = [sum(name == replicas[0] for replicas in made.replicas) for name in made.members]
    assert sum(held) == 300
    assert 40 <= min(held) <= max(held) <= 80
    assert 18 <= min(preferred) <= max(preferred) <= 22


def test_address_of_a_stranger_is_empty() -> None:
    """The map knows its members."""
    made = make_shard_map({"a": "h:1"}, 2, 3)
    assert (made.address("a"), made.address("z")) == ("h:1", "")
