"""`kvctl availability`, against a fake cluster whose nodes tell the records of a cluster on paper."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvctl.availability.command import moment_ms, percent_text
from kvctl.failures import Failure
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.availability.world import EPOCH_MS, World
from tests.unit.kvctl.conftest import Run, Screen
from tests.unit.kvctl.traces.synthetic import Scene, write


@pytest.fixture
def told(cluster: AdminCluster) -> World:
    """n2 leads, and is killed for ten seconds; n1 leads after it. The records are the fake nodes' own."""
    world = World()
    for shard in range(4):
        world.at(1000, world.lead, "n2", shard, 1, "", 900, "START")
        world.at(21_000, world.lead, "n1", shard, 2, "n2", 1100, "NODE_FAILED")
    world.crash("n2", 20_000, 30_000)
    world.at(45_000, world.lead, "n2", 0, 3, "n1", 25, "TRANSFER")
    world.run(60_000)
    for answer in world.answers():
        cluster.nodes[answer.node].availability = answer
        for outcome, count in (("OK", 98), ("COMPARE_FAILED", 1), ("NO_LEADER", 1), ("CANCELLED", 3)):
            answer.outcomes.add(operation="put", consistency=2, outcome=outcome, count=count)  # type: ignore[arg-type]
        answer.outcomes.add(operation="cluster.Status", outcome="OK", count=7)
    return world


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first header this is, as words."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[begin + 1 :]:
        if not line.strip():
            break
        rows.append(line.split())
    return rows


def test_availability_shows_system_nodes_and_shards(run: Run, told: World) -> None:
    """Figures for each, as text."""
    out = run("availability").out
    assert out.splitlines()[0].endswith("59.7 s, as n1, n2, n3 saw it")
    nodes = {row[0]: row[1:] for row in table(out, "NODE")}
    assert nodes["n1"][:4] == ["ACTIVE", "100", "%", "0"]
    assert nodes["n1"][4:] == [">", "59.7", "s", "0"]
    assert nodes["n2"][0] == "ACTIVE"
    assert nodes["n2"][3:] == ["1", "49.1", "s", "10.6", "s", "10.6", "s", "0"]
    shards = table(out, "SHARD")
    assert shards[0][:2] == ["0", "n2"]
    assert shards[0][-6:] == ["NODE_FAILED", "1,", "START", "1,", "TRANSFER", "1"]
    assert len(shards) == 4


def test_availability_draws_a_line_for_each(run: Run, told: World) -> None:
    """Outages, elections and the window's ends can be seen without colours, too."""
    lines = run("availability").out.splitlines()
    drawn = {line[:8].strip(): line[9:] for line in lines[2:10]}
    assert list(drawn) == ["system", "n1", "n2", "n3", "shard 0", "shard 1", "shard 2", "shard 3"]
    assert set(drawn["n1"]) == {"━"}
    assert drawn["n2"].count("█") == pytest.approx(12, abs=2)
    assert drawn["n2"].index("█") == pytest.approx(24, abs=2)
    assert drawn["shard 0"].startswith("┿━")
    assert {"█", "░"} <= set(drawn["shard 0"])
    axis = next(line for line in lines[1:] if line.strip().startswith("2023-"))
    assert axis.split() == ["2023-11-14T22:13:20.300Z", "2023-11-14T22:14:20.000Z"]
    assert "█ failed" in lines[lines.index(axis) + 1]


def test_availability_on_a_terminal_is_coloured(run: Run, told: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are red; the same characters."""
    screen = Screen(is_terminal=True)
    monkeypatch.setattr(sys, "stdout", screen)
    run("availability")
    assert "\x1b[1;31m█".encode() in screen.shown
    assert "\x1b[32m━".encode() in screen.shown


def test_availability_as_json_has_all_of_it(run: Run, told: World) -> None:
    """Moments as numbers and as text, shares from 0 to 1."""
    found = run("availability", "-o", "json").json
    assert (found["observers"], found["missing"]) == (["n1", "n2", "n3"], {})
    node = found["nodes"][1]
    assert (node["name"], node["state"], node["failures"], node["mttf_ms"]) == ("n2", "ACTIVE", 1, node["up_ms"])
    (outage,) = node["outages"]
    assert outage["duration_ms"] == node["mttr_ms"] == node["longest_ms"]
    assert datetime.fromisoformat(outage["from"]).timestamp() * 1000 == outage["from_ms"]
    assert (outage["planned"], outage["ongoing"], outage["began_before"]) == (False, False, False)
    assert node["uptime_share"] == pytest.approx(49.2 / 59.7, abs=0.01)
    shard = found["shards"][0]
    assert [(election["leader"], election["cause"]) for election in shard["elections"]] == [
        ("n2", "START"),
        ("n1", "NODE_FAILED"),
        ("n2", "TRANSFER"),
    ]
    assert [led["leader"] for led in shard["led"]] == ["n2", "n1", "n2"]
    assert (found["system"]["failures"], found["nodes"][0]["mttr_ms"]) == (1, None)
    (puts,) = found["requests"]
    assert (puts["operation"], puts["consistency"], puts["answered"], puts["unanswered"]) == ("put", "STRONG", 297, 3)
    assert puts["share"] == 0.99


def test_availability_of_requests_says_what_counts_as_answered(run: Run, told: World) -> None:
    """And what does not count at all; calls that are no operations are left out."""
    out = run("availability").out
    rows = table(out, "OPERATION")
    assert rows[0] == [
        *("put", "strong", "300", "3", "99.000", "%"),
        *("CANCELLED", "9,", "COMPARE_FAILED", "3,", "NO_LEADER", "3"),
    ]
    assert "(COMPARE_FAILED: answers, too)" in out
    assert "(CANCELLED: not counted, the caller gave up)" in out
    assert "cluster.Status" not in out


def test_availability_lists_outages_with_their_reasons(run: Run, told: World) -> None:
    """Of nodes and shards, the oldest first."""
    out = run("availability", "--outages").out
    rows = table(out, "WHAT")
    assert sorted(row[0] for row in rows[:5]) == ["n2", "shard", "shard", "shard", "shard"]
    assert [row[:2] for row in rows if "planned" in row] == [rows[5][:2]] == [["shard", "0"]]
    assert "n2 was FAILED, n1 leads" in out
    assert "n1 handed over to n2" in out


def test_availability_without_a_node_says_so_and_goes_on(run: Run, cluster: AdminCluster, told: World) -> None:
    """Its own record is missing; the others' are not."""
    cluster.nodes["n2"].refuses_availability = True
    result = run("availability")
    assert result.code == 0
    assert "without n2's own record: " in result.err
    assert "as n1, n3 saw it" in result.out
    assert [row[4] for row in table(result.out, "NODE") if row[0] == "n2"] == ["1"]
    assert run("availability", "-o", "json").json["missing"].keys() == {"n2"}


def test_availability_that_no_node_tells_is_an_error(run: Run, cluster: AdminCluster) -> None:
    """As by older nodes, which do not know the question."""
    for node in cluster.nodes.values():
        node.refuses_availability = True
    result = run("availability", "-o", "json")
    assert result.code != 0
    assert result.error["reason"] == "UNIMPLEMENTED"


def test_availability_of_a_window_is_cut_to_it(run: Run, told: World) -> None:
    """--from is --since; times without a zone are UTC."""
    begin, end = "2023-11-14T22:13:45", "2023-11-14T22:13:55Z"
    for option in ("--since", "--from"):
        found = run("availability", option, begin, "--to", end, "-o", "json").json
        assert (found["window"]["from_ms"], found["window"]["duration_ms"]) == (EPOCH_MS + 25_000, 10_000)
        (outage,) = found["nodes"][1]["outages"]
        assert outage["began_before"]


def test_availability_before_the_first_record_is_an_error(run: Run, told: World) -> None:
    """There is nothing to say of it."""
    result = run("availability", "--to", "2020-01-01")
    assert result.code == 2
    assert "nothing is recorded of a time before 2020-01-01" in result.err


@pytest.mark.parametrize(
    "arguments", [("--since", "yesterday"), ("--to", "soon"), ("--since", "1h", "--to", "2h"), ("--since", "1h", "--to", "60m")]
)
def test_availability_of_no_time_is_a_usage_error(run: Run, cluster: AdminCluster, arguments: tuple[str, ...]) -> None:
    """What is neither a span of time nor a time, or ends before it begins."""
    result = run("availability", *arguments)
    assert result.code == 2
    assert "for example" in result.err


def test_moment_is_a_time_ago_or_iso_8601() -> None:
    """A time without a zone is UTC."""
    now = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert moment_ms("--since", "1h", now) == (now - 3600) * 1000
    assert moment_ms("--since", "1.5min", now) == (now - 90) * 1000
    assert moment_ms("--since", "2026-03-01T10:00:00+01:00", now) == (now - 3 * 3600) * 1000
    assert moment_ms("--since", "2026-03-01T10:00", now) == (now - 2 * 3600) * 1000
    with pytest.raises(Failure):
        moment_ms("--since", "1 fortnight", now)


def test_share_is_never_rounded_up_to_everything() -> None:
    """99.9996 % is not 100 %."""
    assert [percent_text(share) for share in (None, 1.0, 0.999996, 0.5, 0.0)] == [
        "",
        "100 %",
        "99.999 %",
        "50.000 %",
        "0.000 %",
    ]


def test_availability_as_clients_saw_it_counts_their_operations(run: Run, told: World, tmp_path: Path) -> None:
    """A span an operation, with all its attempts, within the window; neither RPCs that carried several, nor the nodes' own."""
    scene = Scene()
    for number in range(8):
        scene.client(
            "Put", 25_000 + number, 25_005, kvnode__attempts=2, **({"error__type": "NO_LEADER"} if number == 0 else {})
        )
    scene.client("Put", 70_000, 70_005, kvnode__attempts=1)
    scene.client("Batch", 25_000, 25_010)
    scene.server("Put", 25_000, 25_005, None, "n1")
    path = tmp_path / "spans.jsonl"
    write(path, [*scene.spans, scene.spans[1]])
    arguments = ("--traces", str(path), "--to", "2023-11-14T22:14:20Z")
    (puts,) = run("availability", *arguments, "-o", "json").json["clients"]
    assert (puts["operation"], puts["consistency"], puts["outcomes"]) == ("put", "STRONG", {"NO_LEADER": 1, "OK": 7})
    assert "Operations as clients saw them" in run("availability", *arguments).out


def test_availability_with_traces_of_nobody_says_so(run: Run, told: World, tmp_path: Path) -> None:
    """An empty file is no error, and no table."""
    path = tmp_path / "spans.jsonl"
    path.write_text("")
    result = run("availability", "--traces", str(path))
    assert "no client's operation" in result.err
    assert "as clients saw them" not in result.out
