"""`kvctl put | get | del | cas | range | operation`, against a fake cluster over real gRPC."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import grpc
import pytest

from tests.unit.kvclient.fake_cluster import OVERLOADED, Refusal
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run, Screen


def test_put_and_get_round_trip_as_text(run: Run, cluster: AdminCluster) -> None:
    """A value that was put is what get prints, alone on its line."""
    assert run("put", "greeting", "hällo").out == "ok  revision 1\n"
    assert run("get", "greeting").out == "hällo\n"


def test_get_of_an_absent_key_exits_with_1(run: Run, cluster: AdminCluster) -> None:
    """Not found is an exit code of its own; with JSON it is an answer, not an error."""
    result = run("get", "nothing")
    assert (result.code, result.out) == (1, "")
    assert "key 'nothing' does not exist" in result.err
    result = run("get", "nothing", "-o", "json")
    assert (result.code, result.json["found"], result.err) == (1, False, "")


def test_get_as_json_tells_what_was_served(run: Run, cluster: AdminCluster) -> None:
    """Programs get the value, its revision, and who served it at what level."""
    run("put", "k", "v")
    answer = run("get", "k", "-o", "json", "--consistency", "eventual").json
    assert (answer["key"], answer["value"], answer["revision"], answer["tentative"]) == ("k", "v", 1, False)
    assert answer["served"]["consistency"] == "eventual"
    assert answer["served"]["shard"] == cluster.shard_of("k")


def test_value_from_standard_input_is_taken_as_it_is(run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads bytes, newline and all; --raw writes them back unchanged."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two\nlines\n")))
    run("put", "k", "-")
    assert run("get", "k", "--raw").out == "two\nlines\n"


@pytest.mark.parametrize(("option", "key", "value"), [("--hex", "00ff", "c0ffee"), ("--base64", "AP8=", "wP/u")])
def test_bytes_go_in_and_out_in_the_encoding_asked_for(
    run: Run, cluster: AdminCluster, option: str, key: str, value: str
) -> None:
    """Keys and values that are no text can be given, shown, and told apart in JSON."""
    run("put", key, value, option)
    assert run("get", key, option).out.strip() == value
    assert run("get", key, option, "-o", "json").json[f"value_{option[2:]}"] == value
    assert cluster.shards[cluster.shard_of(b"\x00\xff")].tables[-1][b"\x00\xff"].value == b"\xc0\xff\xee"


def test_value_that_is_no_text_is_escaped_or_base64(run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an encoding a person sees escapes, a pipe gets the bytes, and JSON base64 under another name."""
    run("put", "6b", "ff41", "--hex")
    assert run("get", "k", "-o", "json").json["value_base64"] == "/0E="
    assert run("range").out.splitlines()[1].split()[:2] == ["k", "\\xffA"]
    for is_terminal, expected in ((True, b"\\xffA\n"), (False, b"\xffA\n")):
        screen = Screen(is_terminal=is_terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            run("get", "k")
        assert screen.shown == expected


HOSTILE = "a\x1b[2J\x07\x00\x7f\x9b1m\r\n\tb\u202e"
"""Clears the screen, rings, colours, and runs backwards."""


def test_control_characters_never_reach_a_terminal_or_a_table(
    run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value from somebody else cannot command the terminal; a value on a terminal keeps its lines and tabs."""
    run("put", HOSTILE.encode().hex(), HOSTILE.encode().hex(), "--hex")
    escaped = r"a\x1b[2J\x07\x00\x7f\x9b1m\r\n\tb\u202e"
    assert run("range").out.splitlines()[1].split()[:2] == [escaped, escaped]
    assert run("range", "--keys-only").out == escaped + "\n"
    assert run("locate", HOSTILE.encode().hex(), "--hex").code == 0
    assert escaped in run("locate", HOSTILE).out
    assert escaped in run("cas", HOSTILE, "x", "--absent").err
    for is_terminal, expected in ((True, r"a\x1b[2J\x07\x00\x7f\x9b1m\r" + "\n\tb" + r"\u202e"), (False, HOSTILE)):
        screen = Screen(is_terminal=is_terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            run("get", HOSTILE)
        assert screen.shown == expected.encode() + b"\n"


def test_range_cuts_long_cells_and_says_how_to_see_them(run: Run, cluster: AdminCluster) -> None:
    """A table stays a table whatever is in the store; JSON and --keys-only are complete."""
    key, value = "k" * 200, "ä" * 2048
    run("put", key, value)
    result = run("range")
    row = result.out.splitlines()[1]
    assert len(row) < 160
    assert "… 200 B" in row
    assert "ä… 4.0 KiB" in row
    assert "kvctl get KEY --raw" in result.err
    assert run("range", "-o", "json").json["items"][0]["value"] == value
    assert run("range", "--keys-only").out == key + "\n"
    run("del", key)
    run("put", "short", "v")
    assert run("range").err == ""


@pytest.mark.parametrize(("option", "text"), [("--hex", "xyz"), ("--base64", "*")])
def test_bytes_that_do_not_decode_are_a_usage_error(run: Run, cluster: AdminCluster, option: str, text: str) -> None:
    """The error names the argument and its encoding."""
    result = run("put", text, "00", option)
    assert result.code == 2
    assert f"KEY is not {option[2:]}: {text!r}; expected" in result.err
    assert "fromhex" not in result.err


def test_hex_and_base64_together_are_a_usage_error(run: Run, cluster: AdminCluster) -> None:
    """One encoding at a time."""
    assert run("get", "k", "--hex", "--base64").code == 2


def test_delete_says_whether_the_key_existed(run: Run, cluster: AdminCluster) -> None:
    """Deleting twice succeeds twice, and tells the difference."""
    run("put", "k", "v")
    assert run("del", "k").out == "deleted  revision 2\n"
    again = run("del", "k")
    assert (again.code, again.out) == (0, "did not exist\n")
    assert run("del", "k", "-o", "json").json["found"] is False


def test_cas_writes_only_on_the_expected_revision(run: Run, cluster: AdminCluster) -> None:
    """Exit code 3 says that the revision was another one, and which."""
    assert run("cas", "k", "a", "--absent").code == 0
    assert run("cas", "k", "b", "--if-revision", "1").code == 0
    result = run("cas", "k", "c", "--if-revision", "1", "-o", "json")
    assert (result.code, result.out) == (3, "")
    assert result.error["reason"] == "COMPARE_FAILED"
    assert result.error["metadata"]["revision"] == "2"
    assert run("get", "k").out == "b\n"


def test_cas_needs_exactly_one_condition(run: Run, cluster: AdminCluster) -> None:
    """Neither and both are usage errors."""
    for conditions in ((), ("--absent", "--if-revision", "1")):
        result = run("cas", "k", "v", *conditions)
        assert result.code == 2
        assert "exactly one of" in result.err


def test_cas_absent_of_an_existing_key_says_that_it_exists(run: Run, cluster: AdminCluster) -> None:
    """Not a revision that the caller never gave, but what is in the way."""
    run("put", "k", "v")
    result = run("cas", "k", "w", "--absent", "-o", "json")
    assert (result.code, result.error["message"]) == (3, "key 'k' already exists (revision 1)")


def test_eventual_put_prints_the_operation_and_operation_tells_its_fate(run: Run, cluster: AdminCluster) -> None:
    """The id that put prints is what operation takes: pending first, applied in the end."""
    cluster.holds_eventual = True
    accepted = run("put", "k", "v", "-c", "eventual", "-o", "json").json
    assert (accepted["revision"], accepted["acks"]) == (0, 1)
    assert run("operation", accepted["operation_id"]).out == "pending\n"
    cluster.settle()
    assert run("operation", accepted["operation_id"], "--wait").out == "applied  revision 1\n"


def test_operation_that_waits_in_vain_exits_with_4(run: Run, cluster: AdminCluster) -> None:
    """--wait is bounded by --timeout."""
    cluster.holds_eventual = True
    accepted = run("put", "k", "v", "-c", "eventual", "-o", "json").json
    assert run("operation", accepted["operation_id"], "--wait", "--timeout", "0.1").code == 4


def test_operation_superseded_names_the_winner(run: Run, cluster: AdminCluster) -> None:
    """A write that took no effect says so, and what won."""
    cluster.holds_eventual = True
    accepted = run("put", "k", "old", "-c", "eventual", "-o", "json").json
    run("put", "k", "new")
    cluster.settle()
    result = run("operation", accepted["operation_id"])
    assert (result.code, result.out) == (0, "superseded  revision 2  by revision 1 (strong write)\n")


def test_operation_nobody_knows_exits_with_1(run: Run, cluster: AdminCluster) -> None:
    """An unknown id is not found."""
    assert run("operation", "n1.99").code == 1


def test_range_lists_pages_and_counts(run: Run, cluster: AdminCluster) -> None:
    """A prefix, a page at a time, all pages, only the keys, or only their number."""
    for number in range(5):
        run("put", f"a{number}", str(number))
    run("put", "b", "x")
    assert run("range", "a", "--count").out == "5\n"
    assert run("range", "a", "--keys-only").out.split() == ["a0", "a1", "a2", "a3", "a4"]
    page = run("range", "a", "--limit", "2", "-o", "json").json
    assert [item["value"] for item in page["items"]] == ["0", "1"]
    rest = run("range", "a", "--page", page["next_page"], "--keys-only")
    assert rest.out.split() == ["a2", "a3", "a4"]
    assert "--page" in run("range", "--limit", "1").err
    assert run("range", "--start", "a4", "--keys-only", "--all").out.split() == ["a4", "b"]
    table = run("range", "a4").out.splitlines()
    assert table[0].split() == ["KEY", "VALUE", "REVISION", "VERSION"]
    assert table[1].split()[:2] == ["a4", "4"]


def test_session_is_carried_from_call_to_call_in_a_file(run: Run, cluster: AdminCluster, tmp_path: Path) -> None:
    """A session read sees the session's own write even at a replica that lags behind."""
    for node in cluster.nodes.values():
        node.lag = dict.fromkeys(range(4), 0) if node is not cluster.leader_of("k") else {}
    token = str(tmp_path / "session")
    run("put", "k", "v", "--session", token)
    for _ in range(6):
        assert run("get", "k", "-c", "session", "--session", token).out == "v\n"


def test_bounded_read_without_a_bound_is_a_usage_error(run: Run, cluster: AdminCluster) -> None:
    """The SDK's own checks come out as usage errors that name the field."""
    result = run("get", "k", "-c", "bounded")
    assert result.code == 2
    assert "max_staleness" in result.err


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE"), 6),
        (OVERLOADED, 6),
        (Refusal(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"), 5),
        (Refusal(grpc.StatusCode.INTERNAL, "INTERNAL"), 5),
        (Refusal(grpc.StatusCode.DATA_LOSS, "CORRUPT"), 7),
        (Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), 2),
    ],
    ids=lambda value: value.reason if isinstance(value, Refusal) else None,
)
def test_put_that_is_refused_exits_with_the_code_of_its_reason(
    run: Run, cluster: AdminCluster, refusal: Refusal, code: int
) -> None:
    """Scripts can tell what went wrong without reading the message. What may have happened is 5."""
    for _ in range(50):
        cluster.refuse_next(refusal)
    result = run("put", "k", "v", "-o", "json", "--timeout", "0.8")
    assert (result.code, result.out) == (code, "")
    assert result.error["exit_code"] == code
    assert result.error["message"]


def test_put_without_a_leader_exits_with_4_and_says_what_to_do(run: Run, cluster: AdminCluster) -> None:
    """The message names the key, the hint the next step."""
    cluster.leaders = [None] * 4
    result = run("put", "k", "v", "--timeout", "0.2")
    assert result.code == 4
    assert "'k'" in result.err
    assert "hint:" in result.err


def test_get_where_nobody_listens_exits_with_4(run: Run) -> None:
    """A cluster that is not there is unavailable, and the error names the address."""
    began = time.monotonic()
    result = run("get", "k", "--endpoints", "127.0.0.1:9,127.0.0.1:11")
    assert time.monotonic() - began < 3.0  # of the five seconds that a command has
    assert result.code == 4
    assert "no node answers at 127.0.0.1:9, 127.0.0.1:11: connection refused" in result.err
    assert "kvctl cluster up" in result.err


def test_session_file_that_cannot_be_written_is_one_line(run: Run, cluster: AdminCluster, tmp_path: Path) -> None:
    """A wrong path is the user's error, not a defect with a trace."""
    result = run("put", "k", "v", "--session", str(tmp_path / "no" / "file"))
    assert result.code == 2
    assert "no such file or directory" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("endpoints", ["nowhere", "host:0", "host:99999", ":7401", ","])
def test_endpoints_that_are_none_are_a_usage_error(run: Run, endpoints: str) -> None:
    """Every malformed endpoint is refused before anything is sent."""
    assert run("get", "k", "--endpoints", endpoints).code == 2
