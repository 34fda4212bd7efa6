"""Docs, alerts and dashboard speak of metrics that exist, and of all of them; alerts do what they say (promtool says so)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvnode.observe.metric_families import FAMILIES
from tools import dashboard, metrics_table

ROOT = Path(__file__).resolve().parents[3]
ALERTS, SCRAPES = ROOT / "monitoring/prometheus/alerts.yml", ROOT / "monitoring/prometheus/prometheus.yml"
DASHBOARD = ROOT / "monitoring/grafana/kvnode.json"
LIBRARYS = {
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"),
    *("process_max_fds", "process_start_time_seconds", "up"),
    *("python_gc_collections_total", "python_gc_objects_collected_total", "python_gc_objects_uncollectable_total"),
}
"""What Prometheus and its library add."""
NAME = re.compile(r"(?<![\w:])(?:kvnode|process|python)_[a-z_]+|(?<![\w:])up(?=\{)")


def names_of_samples() -> set[str]:
    """What queries may ask for."""
    found = set(LIBRARYS)
    for family in FAMILIES:
        suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.kind, [""])
        found.update(family.name + suffix for suffix in suffixes)
    return found


def labels_of(name: str) -> set[str]:
    """Of a sample, those that scraping adds too."""
    bare = re.sub(r"_(total|info|bucket|count|sum)$", "", name)
    family = next((family for family in FAMILIES if bare == family.name or name == family.name), None)
    return {"job", "instance", *(family.labels if family else ()), *(("le",) if name.endswith("_bucket") else ())}


def rules() -> list[dict[str, Any]]:
    """All of alerts.yml."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All of the dashboard."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each stands, and what it is."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        yield variable["name"], variable.get("definition", "")


def test_expressions_in_alerts_and_dashboard_name_metrics_that_exist() -> None:
    """Each name is one of the catalogue's, or of Prometheus's own; and there are some in each."""
    known, recorded = names_of_samples(), {rule["record"] for rule in rules() if "record" in rule}
    for where, expression in expressions():
        for name in NAME.findall(expression):
            assert name in known, f"{where}: {name}"
        for name in re.findall(r"kvnode:\w+:\w+", expression):
            assert name in recorded, f"{where}: {name}"
        assert where in ("datasource",) or NAME.search(expression) or "kvnode:" in expression, where


def test_expressions_in_alerts_and_dashboard_select_by_labels_that_exist() -> None:
    """A selector by a label that a metric does not have finds nothing, and no error says so."""
    for where, expression in expressions():
        for name, selector in re.findall(r"((?:kvnode|process)_[a-z_]+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
                assert label in labels_of(name), f"{where}: {name} has no label {label}"


def test_alerts_each_say_what_happened_what_to_do_and_where_to_read_on() -> None:
    """Summary, description, a page of the docs, and a severity."""
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 15
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["alert"].startswith("Kvnode")
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert len(alert["annotations"]["description"]) > 60
        assert alert["annotations"]["runbook"].partition("#")[0] in ("docs/operations.md", "docs/latency.md")


def test_dashboard_file_is_what_the_tool_writes() -> None:
    """Run python tools/dashboard.py."""
    assert DASHBOARD.read_text() == dashboard.text()


def test_dashboard_loads_where_its_source_and_nodes_can_be_chosen() -> None:
    """What Grafana 10 asks of a dashboard: a schema, variables, panels with places that do not overlap, and their sources."""
    whole = json.loads(DASHBOARD.read_text())
    assert whole["schemaVersion"] >= 39
    assert whole.get("id") is None
    assert [variable["name"] for variable in whole["templating"]["list"]] == ["datasource", "job", "instance"]
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == "${datasource}" and target["refId"] for target in panel["targets"])
    assert len({panel["id"] for panel in whole["panels"]}) == len(whole["panels"])


def test_docs_have_a_row_for_each_metric() -> None:
    """The tables are the catalogue (run python tools/metrics_table.py), and the text names nothing else."""
    text = metrics_table.PAGE.read_text()
    assert metrics_table.written(text) == text
    known = names_of_samples() | {metrics_table.shown(family) for family in FAMILIES}
    named = set(NAME.findall(text))
    assert named <= known
    assert {metrics_table.shown(family) for family in FAMILIES} <= named
    assert LIBRARYS - {"up"} <= named


def test_example_of_prometheus_scrapes_the_job_that_alerts_look_for() -> None:
    """And loads the alerts."""
    example = yaml.safe_load(SCRAPES.read_text())
    assert example["rule_files"] == [ALERTS.name]
    assert [job["job_name"] for job in example["scrape_configs"]] == ["kvnode"]
    assert any('up{job="kvnode"}' in expression for _, expression in expressions())


@pytest.fixture
def promtool() -> str:
    """Prometheus's own checker."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: on Debian, apt-get install prometheus")
    return found


@pytest.mark.parametrize(
    "command",
    ["check rules alerts.yml", "test rules alerts.test.yml", "check config prometheus.yml"],
    ids=lambda each: each[:10],
)
def test_promtool_finds_nothing_wrong(promtool: str, command: str) -> None:
    """The alerts are valid, and do what alerts.test.yml says."""
    done = subprocess.run([promtool, *command.split()], cwd=ALERTS.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
