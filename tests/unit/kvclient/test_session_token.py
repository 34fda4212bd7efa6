"""A session's token, without a network."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvclient._session import SessionToken
from tests.unit.kvclient.fake_cluster import make_token, parse_token


def test_session_token_one_after_the_other_sends_the_latest_as_it_is() -> None:
    """Sequential callers never see the joining of tokens; an answer without a token changes nothing."""
    token = SessionToken()
    for received in (b"t1", b"t2", b"", b"t2"):
        token.on_answer(token.parts(), [received])
    assert token.current() == b"t2"


def test_session_token_overlapping_answers_are_all_kept() -> None:
    """Two operations that overlapped leave two tokens; the next one carries both and its answer replaces both."""
    token = SessionToken(b"t0")
    sent = token.parts()
    token.on_answer(sent, [b"a"])
    token.on_answer(sent, [b"b"])
    assert token.current() == b"ab"
    token.on_answer(token.parts(), [b"c"])
    assert token.current() == b"c"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 50)), max_size=60))
def test_session_token_any_overlap_covers_every_answer(steps: list[tuple[bool, int, int]]) -> None:
    """With servers that merge what they are sent, the token always covers the highest index of every shard answered."""
    token, seen = SessionToken(), dict[int, int]()
    under_way: list[tuple[tuple[bytes, ...], int, int]] = []
    for begins, shard, index in steps:
        if begins or not under_way:
            under_way.append((token.parts(), shard, index))
            continue
        sent, shard, index = under_way.pop(index % len(under_way))
        merged, _ = parse_token(b"".join(sent))
        merged[shard] = max(index, merged.get(shard, 0))
        token.on_answer(sent, [make_token(merged, [])])
        seen[shard] = max(index, seen.get(shard, 0))
    covered, _ = parse_token(token.current())
    assert covered == seen
