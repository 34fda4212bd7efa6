"""Reading files of traces and live nodes: rotated, damaged, mixed with other files, or silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.failures import Failure
from kvctl.traces.read import Reading, files_of, read_files
from tests.unit.kvctl.traces.synthetic import Put, as_line, trace_id_of, usual_puts, write


def _ids(paths: list[Path]) -> tuple[set[str], Reading]:
    reading = Reading()
    return {span.trace_id for span in read_files(paths, reading)}, reading


def test_file_is_read_with_its_rotated_predecessors(tmp_path: Path) -> None:
    """FILE means FILE, FILE.1, FILE.2, ... FILE.10 in this order, and nothing else beside it."""
    for number, suffix in enumerate(("", ".1", ".2", ".10")):
        write(tmp_path / f"traces.jsonl{suffix}", Put().scene(trace_id_of(number)).spans)
    write(tmp_path / "traces.jsonl.bak", Put().scene(trace_id_of(9)).spans)
    found, reading = _ids([tmp_path / "traces.jsonl"])
    assert found == {trace_id_of(number) for number in range(4)}
    assert [file.suffix for file in reading.files] == [".jsonl", ".1", ".2", ".10"]


def test_directory_is_searched_for_files_of_traces_only(tmp_path: Path) -> None:
    """A playground's directory holds logs and data too; each node's traces are found by what they hold."""
    for name in ("n1", "n2"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "log.jsonl").write_text('{"event": "resourceSpans are elsewhere"}\n')
        (tmp_path / name / "data" / "log-1").write_bytes(b"\x00\xff" * 100)
        write(tmp_path / name / "any.name", Put().scene(trace_id_of(int(name[1]))).spans)
    found, reading = _ids([tmp_path])
    assert found == {trace_id_of(1), trace_id_of(2)}
    assert [file.name for file in reading.files] == ["any.name", "any.name"]


def test_file_named_twice_is_read_once(tmp_path: Path) -> None:
    """By name and by its directory: a span counts once anyway, and time is saved."""
    path = write(tmp_path / "traces.jsonl", usual_puts(1))
    assert files_of([path, tmp_path]) == [path]


def test_line_that_is_cut_is_skipped_and_counted(tmp_path: Path) -> None:
    """A writer that died within a write leaves half a line, at the end or, after its next start, in the middle."""
    first, second = (as_line(Put().scene(trace_id_of(number)).spans) for number in (1, 2))
    path = tmp_path / "traces.jsonl"
    path.write_text(f"{first}\n{first[:100]}\n\n{second}\n{second[:50]}")
    found, reading = _ids([path])
    assert found == {trace_id_of(1), trace_id_of(2)}
    assert reading.damaged_lines == 2


def test_lines_with_other_telemetry_are_passed_over(tmp_path: Path) -> None:
    """A collector may write logs and metrics into the same file."""
    path = tmp_path / "all.jsonl"
    path.write_text(f'{{"resourceLogs": []}}\n{as_line(usual_puts(1))}\n{{"resourceMetrics": []}}\n')
    found, reading = _ids([path])
    assert (len(found), reading.damaged_lines) == (1, 0)


def test_line_as_the_collectors_file_exporter_writes_it_is_read(tmp_path: Path) -> None:
    """Its order of fields, its empty ones, and its way with an empty parent."""
    path = tmp_path / "collector.json"
    path.write_text(
        '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"kvnode"}},{"key":'
        '"service.instance.id","value":{"stringValue":"n1"}}]},"scopeSpans":[{"scope":{"name":"kvnode","version":"0.1.0"},"spans":'
        '[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","parentSpanId":"","flags":1,"name":'
        '"kvapi.v1.KV/Put","kind":2,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000",'
        '"attributes":[{"key":"kvnode.shard","value":{"intValue":"3"}}],"events":[{"timeUnixNano":"1544712660500000000","name":"e"}],'
        '"status":{}}]}],"schemaUrl":"https://opentelemetry.io/schemas/1.37.0"}]}\n'
    )
    (span,) = read_files([path], Reading())
    assert (span.node, span.kind, span.parent_id, span.shard, span.duration_ns) == ("n1", "server", "", 3, 1_000_000_000)


def test_path_without_traces_is_refused_by_name(tmp_path: Path) -> None:
    """What is not there, an empty directory, and a file of something else, each with its own words; an empty file is none."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "log.jsonl").write_text('{"event": "started"}\n')
    (tmp_path / "new.jsonl").touch()
    with pytest.raises(FileNotFoundError):
        files_of([tmp_path / "absent"])
    with pytest.raises(Failure, match="no file of traces below it"):
        files_of([tmp_path / "empty"])
    with pytest.raises(Failure, match="no traces in it"):
        _ids([tmp_path / "log.jsonl"])
    assert _ids([tmp_path / "new.jsonl"])[0] == set()
