"""`kvctl report`: from files, from a fake cluster over real gRPC, and what becomes of the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2, observability_pb2
from kvctl.playground import free_base_port
from tests.unit.kvctl.admin_cluster import AdminCluster, AdminNode, serving
from tests.unit.kvctl.conftest import Run
from tests.unit.kvctl.report.made import AT_MS, Seen, histogram
from tests.unit.kvctl.traces.synthetic import as_line, slow_put, trace_id_of, usual_puts, write


class ReportNode(AdminNode):
    """A fake node that also tells its record."""

    record = cluster_pb2.AvailabilityResponse()

    async def Availability(self, request: cluster_pb2.AvailabilityRequest, context: Any) -> Any:
        """What the test put there."""
        return await self._serve("Availability", context, lambda: self.told("Availability", self.record))


@pytest.fixture
def cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminCluster]:
    """Three nodes that served a thousand puts each; n1 saw n2 fail for ten seconds."""
    fake = AdminCluster()
    fake.nodes = {name: ReportNode(fake, name) for name in fake.nodes}
    for name, node in fake.nodes.items():
        assert isinstance(node, ReportNode)
        node.latency = observability_pb2.LatencyResponse(node=name, incarnation=1, at_ms=AT_MS + 60_000, since_ms=AT_MS)
        node.latency.series.add(
            operation="put", consistency=kv_pb2.CONSISTENCY_STRONG, histogram=histogram([2000] * 1000).to_pb()
        )
        node.record = record(name)
        node.trace_lines = [as_line(slow_put().scene(trace_id_of(900 + int(name[1:]))).spans)]
    with serving(fake):
        monkeypatch.setenv("KVCTL_ENDPOINTS", fake.endpoints)
        yield fake


def record(name: str) -> cluster_pb2.AvailabilityResponse:
    """Of one node."""
    made = cluster_pb2.AvailabilityResponse(node=name, at_ms=AT_MS + 60_000, started_ms=AT_MS)
    active, failed = message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_FAILED
    for other in ("n1", "n2", "n3"):
        made.events.add(node=other, to=active, at_ms=AT_MS + 100, incarnation=1, why="heard")
    if name != "n2":
        made.events.add(
            node="n2", **{"from": active}, to=failed, at_ms=AT_MS + 20_000, incarnation=1, why="silent", silent_ms=0
        )
        made.events.add(node="n2", **{"from": failed}, to=active, at_ms=AT_MS + 30_000, incarnation=1, why="heard")
    made.outcomes.add(operation="put", consistency=kv_pb2.CONSISTENCY_STRONG, outcome="OK", count=999)
    made.outcomes.add(operation="put", consistency=kv_pb2.CONSISTENCY_STRONG, outcome="NO_LEADER", count=1)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Thirty usual puts and a slow one."""
    return write(tmp_path / "traces.jsonl", [*usual_puts(30), *slow_put().scene().spans], lines=4)


def test_report_of_a_file_is_one_page(run: Run, file: Path, tmp_path: Path) -> None:
    """It says where it is and how large; nothing else is left there."""
    target = tmp_path / "out" / "page.html"
    target.parent.mkdir()
    result = run("report", str(file), "-o", str(target))
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{target}: ")
    assert result.out.endswith(" KiB\n")
    assert [one.name for one in target.parent.iterdir()] == ["page.html"]
    text = Seen(target.read_text()).all("main")[0].text
    assert "42 of 52 ms waiting for fsync on n2 (usually 0.52 ms); n3 was FAILED, so n2 was needed for the quorum." in text
    assert "Left out: files of traces do not tell" in text


def test_report_for_programs_names_its_file(run: Run, file: Path, tmp_path: Path) -> None:
    """-o is the page's here; the form of answers stands before the command."""
    target = tmp_path / "page.html"
    answer = run("-o", "json", "report", str(file), "-o", str(target)).json
    assert answer == {"file": str(target), "size_bytes": target.stat().st_size, "requests": 31}


def test_report_goes_to_standard_output_if_wanted(file: Path) -> None:
    """With -o -, byte for byte."""
    made = subprocess.run(
        [sys.executable, "-m", "kvctl", "report", str(file), "-o", "-"], capture_output=True, check=True, timeout=60
    )
    assert made.stdout.startswith(b"<!doctype html>")
    assert made.stdout.endswith(b"</html>\n")


def test_report_replaces_a_page_as_a_whole(run: Run, file: Path, tmp_path: Path) -> None:
    """A command that fails leaves the page before as it was."""
    target = tmp_path / "page.html"
    target.write_text("before")
    assert run("report", str(tmp_path / "missing.jsonl"), "-o", str(target)).code == 2
    assert target.read_text() == "before"
    assert run("report", str(file), "-o", str(target)).code == 0
    assert target.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("target", [".", "missing/page.html"])
def test_report_to_nowhere_is_a_usage_error(run: Run, file: Path, tmp_path: Path, target: str) -> None:
    """A directory, or one that is not there: told with its name, no stack trace."""
    result = run("report", str(file), "-o", str(tmp_path / target))
    assert result.code == 2
    assert str(tmp_path) in result.err
    assert "Traceback" not in result.err


def test_report_without_a_cluster_says_how_to_have_one(run: Run, tmp_path: Path) -> None:
    """Nobody answers: an error, and no page."""
    target = tmp_path / "page.html"
    result = run("report", "-e", f"127.0.0.1:{free_base_port(1)}", "-o", str(target))
    assert result.code == 4
    assert not target.exists()


def test_report_of_a_cluster_has_all_of_it(run: Run, cluster: AdminCluster, tmp_path: Path) -> None:
    """Counts of all nodes, their records merged, their traces."""
    target = tmp_path / "page.html"
    result = run("report", "-o", str(target))
    assert (result.code, result.err) == (0, "")
    seen = Seen(target.read_text())
    rows = [row.text for row in seen.all("tr")]
    assert any(row.startswith("putstrong3,0002.0 ms2.0 ms2.0 ms2.0 ms2.0 ms2.0 ms") for row in rows)
    assert any(row.startswith("putstrong99.9 %2,9973OK 2,997 NO_LEADER 3") for row in rows)
    assert "n2 failed at 2023-11-14T22:13:40.000Z and was down for 10.0 s" in seen.all("header")[0].text
    assert len(seen.all("details", "slow")) == 3
    (lane,) = [rect.attributes["data-tip"] or "" for rect in seen.all("rect", "failed") if "data-tip" in rect.attributes]
    assert lane.startswith("n2 down\n\t22:13:40.000Z – 22:13:50.000Z\t10.0 s\n\t\tsilent")


def test_report_without_one_node_names_it(run: Run, cluster: AdminCluster, tmp_path: Path) -> None:
    """Who is silent about a question is told on standard error and in the page; the rest is there."""
    target = tmp_path / "page.html"
    silent = cluster.nodes["n3"]
    assert isinstance(silent, ReportNode)
    silent.silent_about = {"Latency"}
    result = run("report", "-o", str(target))
    assert result.code == 0
    assert result.err.startswith("without n3: ")
    seen = Seen(target.read_text())
    assert "n3 did not answer" in seen.all("header")[0].text
    assert any(row.text.startswith("putstrong2,000") for row in seen.all("tr"))


def test_report_of_files_asks_the_cluster_only_if_it_is_named(
    run: Run, cluster: AdminCluster, file: Path, tmp_path: Path
) -> None:
    """A cluster from the environment may be another one than that of the files."""
    target = tmp_path / "page.html"
    run("report", str(file), "-o", str(target))
    assert "Left out" in target.read_text()
    run("report", str(file), "-e", cluster.endpoints, "-o", str(target))
    text = Seen(target.read_text()).all("main")[0].text
    assert "Left out" not in text
    assert "of 34 requests" in text


def test_report_of_files_goes_on_without_the_cluster(run: Run, file: Path, tmp_path: Path) -> None:
    """The page says that it was asked for and did not answer."""
    target = tmp_path / "page.html"
    result = run("report", str(file), "-e", f"127.0.0.1:{free_base_port(1)}", "-o", str(target))
    assert result.code == 0
    assert "the cluster" in result.err
    assert "the cluster did not answer" in Seen(target.read_text()).all("header")[0].text


def test_report_draws_as_many_as_are_wanted(run: Run, file: Path, tmp_path: Path) -> None:
    """The slowest of all; three of their kind are always there."""
    target = tmp_path / "page.html"
    for wanted, drawn in ((1, 3), (10, 10), (100, 31)):
        run("report", str(file), "-n", str(wanted), "-o", str(target))
        assert len(Seen(target.read_text()).all("details", "slow")) == drawn
    assert run("report", str(file), "-n", "0", "-o", str(target)).code == 2


def test_report_help_does_not_load_what_draws() -> None:
    """Neither DuckDB nor gRPC is imported before the command runs."""
    code = (
        "import sys; import kvctl.app; sys.exit(any(name in sys.modules for name in ('duckdb', 'grpc', 'kvctl.report.page')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
