"""`kvctl trace ...`: from files and from a fake cluster over real gRPC, for people and for programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run
from tests.unit.kvctl.traces.synthetic import TRACE, Follower, Put, as_line, slow_put, trace_id_of, usual_puts, write


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Thirty usual puts and a slow one."""
    return str(write(tmp_path / "traces.jsonl", [*usual_puts(30), *slow_put().scene().spans], lines=4))


def test_list_shows_the_slowest_first_with_its_longest_part(run: Run, file: str) -> None:
    """One row a request, and how many there are besides."""
    result = run("trace", "list", file, "--limit", "2")
    rows = [line.split() for line in result.out.splitlines()]
    assert rows[0][:4] == ["TRACE", "BEGAN", "OPERATION", "CONSISTENCY"]
    assert rows[1][0] == TRACE[:12]
    assert "42 ms waiting for fsync on n2" in result.out
    assert len(rows) == 3
    assert result.err == "2 of 31; more with --limit\n"


def test_list_for_programs_has_whole_ids_and_milliseconds(run: Run, file: str) -> None:
    """With -o json."""
    answer = run("trace", "list", file, "-n", "1", "-o", "json").json
    assert answer["total"] == 31
    assert answer["requests"] == [
        {
            "trace_id": TRACE,
            "span_id": answer["requests"][0]["span_id"],
            "began": "2023-11-14T22:13:20.000Z",
            "operation": "put",
            "consistency": "strong",
            "duration_ms": 52.22,
            "node": "n1",
            "shard": 3,
            "kept": "slow",
            "error": "",
            "attempts": 1,
            "by_client": True,
            "worst": {"stage": "fsync", "node": "n2", "ms": 41.6},
        }
    ]


def test_list_takes_filters(run: Run, file: str) -> None:
    """Each narrows, and none found is said, not an error."""
    assert [one["trace_id"] for one in run("trace", "list", file, "--kept", "slow", "-o", "json").json["requests"]] == [TRACE]
    assert run("trace", "list", file, "--min-ms", "5", "--node", "n1", "--operation", "put", "-o", "json").json["total"] == 1
    assert run("trace", "list", file, "--where", "shard=3", "-o", "json").json["total"] == 31
    result = run("trace", "list", file, "--errors")
    assert (result.code, result.out) == (0, "")
    assert "tracing.sample_ratio" in result.err


def test_list_tells_of_damaged_lines(run: Run, tmp_path: Path, file: str) -> None:
    """What was skipped is no secret, and no error."""
    with Path(file).open("a") as end:
        end.write('{"resourceSpans":[{"reso')
    result = run("trace", "list", file, "-n", "1")
    assert result.code == 0
    assert "1 damaged line skipped" in result.err


def test_show_draws_the_trace_explains_it_and_names_what_is_related(run: Run, file: str) -> None:
    """The beginning of the id suffices; in a pipe there are no codes for colours."""
    out = run("trace", "show", "4bf9", file).out
    assert out.startswith(f"trace {TRACE}, begun 2023-11-14T22:13:20.000Z\nspan ")
    assert "KV/Put" in out
    assert "42 of 52 ms waiting for fsync on n2 (usually 0.5" in out
    assert "\x1b" not in out


def test_show_for_programs_has_every_span(run: Run, file: str) -> None:
    """Depth, times from the trace's begin, and what each was waited for."""
    answer = run("trace", "show", "4bf9", file, "-o", "json").json
    assert answer["spans"][0] == {
        "depth": 0,
        "name": "Put",
        "node": "",
        "start_ms": 0.0,
        "duration_ms": 52.22,
        "critical_ms": 0.0,
        "derived": False,
        "concurrent": False,
        "error": "",
    }
    assert sum(span["critical_ms"] for span in answer["spans"]) == pytest.approx(52.22)
    assert answer["explanation"].startswith("Put took 52 ms")


def test_show_of_an_unknown_trace_says_where_to_look(run: Run, file: str) -> None:
    """Exit code 1, as for a key that is not there."""
    result = run("trace", "show", "5bf9", file)
    assert result.code == 1
    assert result.err == "error: no trace begins with '5bf9'\nhint: kvctl trace list shows those that are known\n"


def test_explain_of_one_and_of_the_slowest_agree(run: Run, file: str) -> None:
    """By id, or as the first of the slowest; for programs with its parts."""
    sentence = run("trace", "explain", "4bf9", file).out
    assert "n3 was FAILED, so n2 was needed for the quorum." in sentence
    assert run("trace", "explain", file, "--slowest", "1").out == sentence
    assert len(run("trace", "explain", file).out.splitlines()) == 3
    (one,) = run("trace", "explain", "4bf9", file, "-o", "json").json["explanations"]
    assert one["parts"][0] == {
        "stage": "fsync",
        "node": "n2",
        "ms": 41.6,
        "typical_ms": pytest.approx(0.52, abs=0.01),
        "words": "waiting for fsync on n2",
    }
    assert one["causes"] == ["n3 was FAILED, so n2 was needed for the quorum"]
    assert run("trace", "explain", "4bf9", file, "--slowest", "2").code == 2


def test_critical_path_of_one_sums_to_its_duration(run: Run, file: str) -> None:
    """Step by step."""
    answer = run("trace", "critical-path", "4bf9", file, "-o", "json").json
    assert sum(step["self_ms"] for step in answer["steps"]) == pytest.approx(answer["duration_ms"])
    assert [step["stage"] for step in answer["steps"]][:3] == ["client.queue", "network", "admission"]
    assert "waiting for fsync on n2" in run("trace", "critical-path", "4bf9", file).out


def test_critical_path_of_all_shares_their_time(run: Run, file: str) -> None:
    """By stage and node; all shares sum to one."""
    answer = run("trace", "critical-path", file, "-o", "json").json
    assert answer["requests"] == 31
    assert sum(part["share"] for part in answer["parts"]) == pytest.approx(1, abs=0.001)
    assert run("trace", "critical-path", file).out.startswith("Critical paths of 31 requests\n")


def test_diff_of_two_files_names_the_stage(run: Run, tmp_path: Path, file: str) -> None:
    """Before and after a disk got slow."""
    after = str(write(tmp_path / "after.jsonl", usual_puts(30, put=Put(fsync=5))))
    result = run("trace", "diff", file, after)
    assert result.out.startswith("Put (strong): slower, median 1.2 ms → 5.9 ms (+377%)")
    assert "fsync" in result.out.splitlines()[0]
    (one,) = run("trace", "diff", file, after, "-o", "json").json["differences"]
    assert (one["stages"][0]["stage"], one["stages"][0]["verdict"]) == ("", "slower")


def test_diff_of_two_conditions_compares_leaders(run: Run, tmp_path: Path) -> None:
    """Within one set of files; both conditions, or none."""
    followers = {"n1": Follower(), "n3": Follower(fsync=0.6, quorum=False)}
    other = Put(leader="n2", followers=followers)
    path = str(write(tmp_path / "traces.jsonl", [*usual_puts(20), *usual_puts(20, first=50, put=other)]))
    assert "within noise" in run("trace", "diff", path, "--a", "node=n1", "--b", "node=n2").out
    assert run("trace", "diff", path, "--a", "node=n1").code == 2
    assert run("trace", "diff", path).code == 2
    assert "no kind of request in common" in run("trace", "diff", path, "--a", "node=n1", "--b", "node=n9").err


def test_sql_answers_questions_of_ones_own(run: Run, file: str) -> None:
    """As a table, or as JSON; a mistake is explained."""
    query = "select kept, count(*) as requests from requests group by kept order by kept"
    assert run("trace", "sql", query, file, "-o", "json").json == [
        {"kept": "sampled", "requests": 30},
        {"kept": "slow", "requests": 1},
    ]
    assert run("trace", "sql", query, file).out.split() == ["KEPT", "REQUESTS", "sampled", "30", "slow", "1"]
    result = run("trace", "sql", "selekt 1", file)
    assert result.code == 2
    assert "syntax error" in result.err


def test_traces_of_live_nodes_are_merged(run: Run, cluster: AdminCluster) -> None:
    """Without files: all nodes are asked, a span that two of them have counts once, one that is silent is named."""
    spans = slow_put().scene().spans
    cluster.nodes["n1"].trace_lines = [as_line(spans)]
    cluster.nodes["n2"].trace_lines = [as_line(spans[:3]), as_line(usual_puts(2))]
    answer = run("trace", "list", "-o", "json").json
    assert answer["requests"][0]["trace_id"] == TRACE
    assert answer["total"] == 3
    cluster.nodes["n2"].silent_about.append("Traces")
    result = run("trace", "list", "-o", "json")
    assert result.json["total"] == 1
    assert "without the spans of n2: " in result.err


def test_traces_without_a_cluster_can_come_from_files(run: Run) -> None:
    """The error says so."""
    result = run("trace", "list", "-e", "127.0.0.1:9")
    assert result.code == 4
    assert "or name files of traces" in result.err


def test_trace_commands_with_wrong_words_are_refused(run: Run, file: str) -> None:
    """Neither file nor id, two ids, times that are none."""
    for arguments in (
        ("show", "nothing-such"),
        ("show", file),
        ("show", "4b", "5b", file),
        ("critical-path", "4b", "5b", file),
        ("list", file, "--since", "soon"),
        ("list", file, "--kept", "often"),
        ("list", file, "--where", "shard ="),
    ):
        result = run("trace", *arguments)
        assert result.code == 2, arguments
        assert "\nhint: " in result.err
    assert run("trace", "list", f"{file}x").code == 2


def test_help_does_not_wait_for_duckdb() -> None:
    """What is slow to import is imported by the commands that need it."""
    script = "import sys, kvctl.app; print({'duckdb', 'rich.console', 'grpc', 'kvctl.traces.store'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_ids_of_synthetic_traces_are_hexadecimal() -> None:
    """The fixture's own promise: what tests name is what nodes would name."""
    assert len(trace_id_of(7)) == len(TRACE) == 32
    assert int(trace_id_of(7), 16)
