"""gRPC's vocabulary: time-outs, percent-encoded messages, binary values; and header lists with anything in them."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from kvwire.heads import RequestHead, ResponseHead
from kvwire.metadata import (
    decode_message,
    decode_metadata,
    decode_timeout,
    encode_message,
    encode_metadata,
    encode_timeout,
)
from tests.fuzz.profile import fuzz
from tests.unit.kvwire.test_header_block_properties import decoded, stateless

keys = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=12).filter(lambda key: not key.endswith("-bin"))
pairs = st.one_of(
    st.tuples(keys.map(lambda key: "x" + key), st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)),
    st.tuples(keys.map(lambda key: f"x{key}-bin"), st.binary(max_size=30)),
)


@fuzz(100)
@given(st.floats(min_value=1e-6, max_value=9e7))
def test_timeout_that_is_sent_is_never_shorter_and_hardly_longer(seconds: float) -> None:
    """A deadline that comes early is a wrong answer; the text has at most eight digits."""
    text = encode_timeout(seconds)
    assert len(text) <= 9
    read = decode_timeout(text)
    assert read is not None
    assert (
        seconds * (1 - 1e-9) - (1 if seconds >= 90_000 else 0)
        <= read
        <= seconds * (1 + 1e-9) + (2e-6 if seconds < 0.1 else 1e-3)
    )


@fuzz(60)
@given(st.floats(min_value=-1e15, max_value=1e15))
def test_timeout_of_any_size_is_a_legal_text(seconds: float) -> None:
    """Also deadlines that have passed, and three million years."""
    read = decode_timeout(encode_timeout(seconds))
    assert read is not None
    assert read >= 0


@fuzz(100)
@given(st.binary(max_size=12))
def test_timeout_with_anything_in_it_is_seconds_or_none(value: bytes) -> None:
    """Nothing but one to eight digits and a unit is a time-out."""
    read = decode_timeout(value)
    legal = 2 <= len(value) <= 9 and value[:-1].isdigit() and value[-1:] in (b"H", b"M", b"S", b"m", b"u", b"n")
    assert (read is not None) == legal


@fuzz(100)
@given(st.text(max_size=60))
def test_status_message_with_any_text_arrives_as_it_was(details: str) -> None:
    """Percent-encoded, printable on its way; lone surrogates, which have no UTF-8, become question marks."""
    value = encode_message(details)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert decode_message(value) == details.encode("utf-8", "replace").decode()


@fuzz(100)
@given(st.binary(max_size=60))
def test_status_message_with_any_bytes_is_shown_somehow(value: bytes) -> None:
    """A badly encoded message is no reason to lose a status."""
    assert isinstance(decode_message(value), str)


@fuzz(100)
@given(st.lists(pairs, max_size=8))
def test_metadata_of_any_pairs_arrive_in_their_order(written: list[tuple[str, str | bytes]]) -> None:
    """Text as it was, bytes behind base64, through a header block."""
    fields = decoded(stateless(), encode_metadata(written))
    assert isinstance(fields, list)
    assert [tuple(pair) for pair in decode_metadata(fields)] == written


@fuzz(60)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))
def test_binary_metadata_with_and_without_padding_are_read_alike(values: list[bytes], padded: list[bool]) -> None:
    """Peers may pad, and may join several values by commas."""
    texts = [
        base64.b64encode(value) if pad else base64.b64encode(value).rstrip(b"=")
        for value, pad in zip(values, padded, strict=False)
    ]
    assert [pair.value for pair in decode_metadata([(b"x-bin", b",".join(texts))])] == values


names = st.one_of(
    st.sampled_from(
        (
            b":method",
            b":path",
            b":scheme",
            b":authority",
            b":status",
            b"te",
            b"content-type",
            b"grpc-timeout",
            b"grpc-encoding",
            b"grpc-status",
            b"grpc-message",
            b"a-bin",
            b"connection",
        )
    ),
    st.binary(max_size=10),
)
values = st.one_of(
    st.sampled_from((b"POST", b"/a/b", b"http", b"200", b"0", b"10S", b"%C3%", b"\xc2\xb2", b"1" * 40)), st.binary(max_size=12)
)


@fuzz(200)
@given(st.lists(st.tuples(names, values), max_size=10))
def test_header_list_with_anything_in_it_makes_a_head(fields: list[tuple[bytes, bytes]]) -> None:
    """Heads are made of whatever a peer sends; only their metadata may raise, and only ValueError."""
    for head in (RequestHead(fields), ResponseHead(fields)):
        try:
            assert all(isinstance(pair.key, str) for pair in head.metadata)
        except ValueError:
            assert any(name.endswith(b"-bin") for name, _ in fields)
