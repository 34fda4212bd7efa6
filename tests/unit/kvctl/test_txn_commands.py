"""`kvctl txn run | list | show | resolve`, against a fake cluster over real gRPC."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import grpc
import pytest

from kvapi.v1 import cluster_pb2
from kvapi.v1 import two_phase_commit_pb2 as pb
from tests.unit.kvclient.fake_cluster import Fault, Refusal
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run

SALE = """
# sell the last one
if    value stock/1 = "3"
if    exists user/7
if    revision user/7 > 0
if    absent order/9
then  put stock/1 2
then  put order/9 paid
then  delete cart/7
then  delete user/7
then  get stock/1
then  get order/9
then  range user/
else  get stock/1
else  range o limit 1 keys-only
"""


@pytest.fixture
def sale(tmp_path: Path) -> str:
    """A file with a transaction of all kinds of lines."""
    (tmp_path / "sale.txn").write_text(SALE)
    return str(tmp_path / "sale.txn")


def test_run_takes_then_where_all_comparisons_hold_and_else_where_not(run: Run, cluster: AdminCluster, sale: str) -> None:
    """The branch, and a line for each operation; all reads see the state before the writes. Both outcomes are a success."""
    for key, value in (("stock/1", "3"), ("user/7", "ada"), ("other", "x")):
        run("put", key, value)
    result = run("txn", "run", sale)
    assert result.code == 0
    assert [re.sub(r"  +|\d+$", " ", line).strip() for line in result.out.splitlines()] == [
        "then",
        *(
            "put stock/1 ok revision",
            "put order/9 ok revision",
            "delete cart/7 did not exist",
            "delete user/7 deleted revision",
        ),
        *("get stock/1 3 revision", "get order/9 does not exist"),
        *("range user/ 1 key", "user/7 ada revision"),
    ]
    again = run("txn", "run", sale)
    revisions = {key: run("get", key, "-o", "json").json["revision"] for key in ("stock/1", "order/9")}
    assert (again.code, again.out.splitlines()) == (
        0,
        [
            "else",
            f"get stock/1  2  revision {revisions['stock/1']}",
            "range o      1 key, and there are more",
            f"  order/9  revision {revisions['order/9']}",
        ],
    )


def test_run_as_json_has_a_result_for_each_operation(run: Run, cluster: AdminCluster, sale: str) -> None:
    """Programs get the branch, the results in order, and who served."""
    for key, value in (("stock/1", "3"), ("user/7", "ada")):
        run("put", key, value)
    answer = run("txn", "run", sale, "-o", "json").json
    assert (answer["branch"], answer["succeeded"], answer["transaction_id"]) == ("then", True, "t1")
    put, order, cart, user, stock, absent, users = answer["results"]
    assert put == {"operation": "put", "key": "stock/1", "revision": put["revision"]}
    assert put["revision"] > stock["revision"]
    assert (order["key"], cart["found"], user["found"]) == ("order/9", False, True)
    assert (stock["found"], stock["value"], absent["found"]) == (True, "3", False)
    assert (users["prefix"], users["items"][0]["value"], users["more"]) == ("user/", "ada", False)
    assert {served["shard"] for served in answer["served"]} >= {cluster.shard_of("stock/1"), cluster.shard_of("order/9")}
    names = run("txn", "run", sale, "-o", "json").json["results"][1]["items"][0]
    assert names["key"] == "order/9"
    assert "value" not in names


def test_run_without_an_else_exits_with_3_where_a_comparison_fails(
    run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was done, and scripts can tell. From standard input, and without saying `run`."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"if exists k\nthen put other v\n")))
    result = run("txn", "-", "-o", "json")
    assert (result.code, result.out, result.error["reason"]) == (3, "", "COMPARE_FAILED")
    assert run("get", "other").code == 1


def test_run_of_a_file_that_is_named_like_no_command_needs_no_run(run: Run, cluster: AdminCluster, sale: str) -> None:
    """`kvctl txn FILE`; what is neither a command nor a file is an error that names it."""
    assert run("txn", sale).out.startswith("else\n")
    assert "no such command 'lsit'" in run("txn", "lsit").err
    assert "nowhere: no such file or directory" in run("txn", "run", "nowhere").err


def test_run_in_an_encoding_takes_and_shows_bytes(run: Run, cluster: AdminCluster, tmp_path: Path) -> None:
    """--hex is for the file's keys and values and for the answer's; without it a file's bytes are taken as they are."""
    (tmp_path / "hex").write_text("then put 00ff c0ffee\nthen get 00ff")
    assert run("txn", "run", str(tmp_path / "hex"), "--hex").out.splitlines()[1] == "put 00ff  ok  revision 1"
    (tmp_path / "raw").write_bytes(b"if exists \0\xff\nthen get \0\xff")
    assert run("txn", "run", str(tmp_path / "raw")).out == "then\nget \\x00\\xff  \\xc0\\xff\\xee  revision 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("then put k", "line 1: then put takes 2 words, not 1"),
        (f"then put k {'v' * (1 << 20)}v", "value"),
        ("\n".join(f"then put k{number} v" for number in range(129)), "128"),
    ],
)
def test_run_of_what_is_no_transaction_exits_with_2(
    run: Run, cluster: AdminCluster, tmp_path: Path, text: str, message: str
) -> None:
    """Whether a line, a value, or the whole is wrong."""
    (tmp_path / "wrong").write_text(text)
    result = run("txn", "run", str(tmp_path / "wrong"))
    assert result.code == 2
    assert message in result.err


def test_run_that_loses_against_another_transaction_exits_with_6(run: Run, cluster: AdminCluster, sale: str) -> None:
    """A conflict is a refusal: nothing was done, try again."""
    for node in cluster.nodes.values():
        node.faults.extend([Fault(before=Refusal(grpc.StatusCode.ABORTED, "CONFLICT"))] * 50)
    result = run("txn", "run", sale, "-o", "json")
    assert (result.code, result.error["reason"], result.error["hint"]) == (6, "CONFLICT", "try again")


STARTED = 1_700_000_000_000 << 16
UNDER_WAY, ENDED = f"{STARTED}.aa", f"{STARTED - 1}.bb"


def know(cluster: AdminCluster, name: str, shard: int, state: pb.TransactionState, nodes: str = "n1 n2 n3") -> None:
    """Let the shard's replicas on these nodes know a transaction over the shards 1 and 2."""
    for node in nodes.split():
        info = cluster_pb2.TransactionInfo(transaction_id=name, shard=shard, state=state)
        info.leader = cluster.leaders[shard] == node
        if state in (pb.TRANSACTION_STATE_PREPARED, pb.TRANSACTION_STATE_COMMITTING):
            info.anchor, info.participants[:], info.index = 1, [1, 2], 17
            info.age_ms, info.unresolved[:] = 3_200, [2]
            info.write_keys.extend([b"stock/1", b"a\x1b", b"\xff"])
            info.read_prefixes.append(b"user/")
        cluster.nodes[node].transaction_infos.append(info)


@pytest.fixture
def busy(cluster: AdminCluster) -> AdminCluster:
    """A transaction that is decided but not applied in shard 2, where a follower is behind; and one that was aborted."""
    assert cluster.leaders == ["n1", "n2", "n3", "n1"]
    know(cluster, UNDER_WAY, 1, pb.TRANSACTION_STATE_PREPARED, "n1")
    know(cluster, UNDER_WAY, 1, pb.TRANSACTION_STATE_COMMITTING, "n2 n3")
    know(cluster, UNDER_WAY, 2, pb.TRANSACTION_STATE_PREPARED)
    know(cluster, ENDED, 1, pb.TRANSACTION_STATE_ABORTED)
    return cluster


def test_list_shows_each_transaction_once_a_shard_as_the_leader_has_it(run: Run, busy: AdminCluster) -> None:
    """A follower that is behind does not confuse anybody; nothing in a key commands the terminal."""
    rows = [line.split() for line in run("txn", "list").out.splitlines()]
    assert rows[0] == ["ID", "SHARD", "STATE", "ANCHOR", "PARTICIPANTS", "AGE", "KEYS"]
    assert [row[:4] for row in rows[1:]] == [[UNDER_WAY, "1", "COMMITTING", "1"], [UNDER_WAY, "2", "PREPARED", "1"]]
    assert " ".join(rows[1][4:]) == r"1, 2 3.2 s stock/1, a\x1b, \xff and 1 more"


def test_list_narrows_to_a_shard_and_widens_to_ended_ones_and_all_replicas(run: Run, busy: AdminCluster) -> None:
    """--shard, --ended and --all-replicas do what they say."""
    assert [line.split()[1] for line in run("txn", "list", "--shard", "2").out.splitlines()[1:]] == ["2"]
    assert run("txn", "list", "--ended").out.splitlines()[3].split() == [ENDED, "1", "ABORTED"]
    rows = [line.split() for line in run("txn", "list", "--all-replicas", "--shard", "1").out.splitlines()[1:]]
    assert [row[2:4] for row in rows] == [["n2", "COMMITTING"], ["n1", "PREPARED"], ["n3", "COMMITTING"]]


def test_list_as_json_is_complete_and_exact(run: Run, busy: AdminCluster) -> None:
    """Every key, in a form that is never ambiguous, and everything a node said."""
    answer = run("txn", "list", "-o", "json").json
    anchor = answer["transactions"][0]
    assert (anchor["transaction_id"], anchor["node"], anchor["state"]) == (UNDER_WAY, "n2", "TRANSACTION_STATE_COMMITTING")
    assert anchor["write_keys"] == [{"key": "stock/1"}, {"key": "a\x1b"}, {"key_base64": "/w=="}]
    assert (anchor["read_keys"], anchor["read_prefixes"], anchor["unresolved"]) == ([], [{"prefix": "user/"}], [2])
    assert answer["no_answer"] == []
    assert run("txn", "list", "-o", "json", "--hex").json["transactions"][0]["write_keys"][2] == {"key_hex": "ff"}


def test_list_where_a_node_is_silent_shows_the_others_and_says_so(run: Run, busy: AdminCluster) -> None:
    """Of a shard whose leader is silent a follower is heard."""
    busy.nodes["n2"].faults.append(Fault(before=Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")))
    result = run("txn", "list", "-e", busy.nodes["n1"].address)
    assert [line.split()[1:3] for line in result.out.splitlines()[1:]] == [["1", "COMMITTING"], ["2", "PREPARED"]]
    assert result.err == "no answer from n2: what only they know is missing\n"


def test_list_of_nodes_that_do_not_know_transactions_is_an_error(run: Run, busy: AdminCluster) -> None:
    """No table that looks as if there were none."""
    for node in busy.nodes.values():
        node.faults.append(Fault(before=Refusal(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")))
    assert run("txn", "list", "-o", "json").error["reason"] == "UNIMPLEMENTED"


def test_show_tells_all_that_is_known_and_what_the_transaction_waits_for(run: Run, busy: AdminCluster) -> None:
    """A sentence, and every replica's word."""
    result = run("txn", "show", UNDER_WAY)
    lines = result.out.splitlines()
    assert lines[:2] == [
        "It is committed. It waits for shard 2 to apply its writes and give the locks back.",
        "Started 2023-11-14T22:13:20.000Z; its anchor is shard 1.",
    ]
    assert [line.split()[:4] for line in lines[3:6]] == [
        ["1", "n2", "leader", "COMMITTING"],
        ["1", "n1", "follower", "PREPARED"],
        ["1", "n3", "follower", "COMMITTING"],
    ]
    assert len(lines) == 9
    answer = run("txn", "show", UNDER_WAY, "-o", "json").json
    assert (answer["decision"], answer["waits_for"], answer["anchor"]) == ("committed", [2], 1)
    assert len(answer["replicas"]) == 6


def test_show_and_resolve_of_a_transaction_nobody_knows_exit_with_1(run: Run, busy: AdminCluster) -> None:
    """Nothing is decided for a name that was mistyped."""
    for verb in ("show", "resolve"):
        result = run("txn", verb, "1.cc", "-o", "json")
        assert (result.code, result.out, result.error["reason"]) == (1, "", "NOT_FOUND")
    assert not any(node.calls["ResolveTransaction"] for node in busy.nodes.values())


def test_resolve_asks_the_leader_of_the_anchor_and_prints_what_it_said(run: Run, busy: AdminCluster) -> None:
    """What is decided stands; what is not is aborted."""
    assert run("txn", "resolve", UNDER_WAY).out == "committed\n"
    assert [node.calls["ResolveTransaction"] for node in busy.nodes.values()] == [0, 1, 0]
    know(busy, "5.dd", 2, pb.TRANSACTION_STATE_PREPARED)
    assert run("txn", "resolve", "5.dd", "-o", "json").json == {"transaction_id": "5.dd", "outcome": "aborted"}


def test_resolve_goes_on_to_another_node_where_the_first_is_silent(run: Run, busy: AdminCluster) -> None:
    """Any node that knows the transaction can ask its anchor."""
    busy.nodes["n2"].refuses_to_resolve = True
    assert run("txn", "resolve", UNDER_WAY).out == "committed\n"


def test_resolve_that_the_cluster_refuses_is_a_failure(run: Run, busy: AdminCluster) -> None:
    """No leader of the anchor, no outcome."""
    for node in busy.nodes.values():
        node.refuses_to_resolve = True
    result = run("txn", "resolve", UNDER_WAY)
    assert (result.code, result.out) == (4, "")
