"""The examples in docs/sdk.md run as they stand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvclient
from kvclient import errors
from tests.unit.kvclient.fake_cluster import running_cluster

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sdk.md"
BLOCKS = re.findall(r"^```python( async)?\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
ADDRESS = re.compile(r"kv://127\.0\.0\.1:7401[0-9.:,]*")


@pytest.mark.parametrize(("inside", "code"), BLOCKS, ids=[code.strip().splitlines()[0][:40] for _, code in BLOCKS])
def test_sdk_page_example_runs(inside: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole programs run alone; blocks marked `async` inside `async with kvclient.connect(...) as kv`."""
    monkeypatch.chdir(tmp_path)
    with running_cluster() as (cluster, _):
        if not inside:
            exec(compile(ADDRESS.sub(cluster.uri, code), str(PAGE), "exec"), {"__name__": "__main__"})
            return
        asyncio.run(_run_inside(cluster.uri, code))


def test_sdk_page_tracing_example_writes_what_tools_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything sampled: a file of OTLP JSON lines, in which each operation of the application has its stages."""
    monkeypatch.chdir(tmp_path)
    (code,) = [code for _, code in BLOCKS if "JsonLinesExporter" in code]
    code = code.replace("ParentBasedTraceIdRatio(0.01)", "ParentBasedTraceIdRatio(1.0)").replace("range(200)", "range(10)")
    with running_cluster() as (cluster, _):
        exec(compile(ADDRESS.sub(cluster.uri, code), str(PAGE), "exec"), {"__name__": "__main__"})
    (path,) = tmp_path.iterdir()
    resources = [one for line in path.read_text(encoding="utf-8").splitlines() for one in json.loads(line)["resourceSpans"]]
    assert {"key": "service.name", "value": {"stringValue": "shop"}} in resources[0]["resource"]["attributes"]
    spans = [span for one in resources for scope in one["scopeSpans"] for span in scope["spans"]]
    below: dict[str, list[str]] = {span["spanId"]: [] for span in spans if span["name"] == "Put"}
    assert len(below) == 10
    for span in spans:
        if "parentSpanId" in span:
            below[span["parentSpanId"]].append(span["name"])
    assert all(sorted(names) == ["client.call", "client.queue"] for names in below.values())


async def _run_inside(uri: str, code: str) -> None:
    names: dict[str, Any] = {"kvclient": kvclient, "asyncio": asyncio}
    body = "".join(f"    {line}" for line in code.splitlines(keepends=True))
    exec(compile(f"async def block(kv):\n{body}", str(PAGE), "exec"), names)
    block: Callable[[kvclient.AsyncClient], Any] = names["block"]
    async with kvclient.connect(uri) as kv:
        await block(kv)


def test_sdk_page_has_examples() -> None:
    """The pattern above finds them."""
    assert len(BLOCKS) >= 10


def _below(kind: type[errors.KvError]) -> Iterator[str]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child.__name__
            yield from _below(child)


def test_sdk_page_every_exception_is_in_its_table() -> None:
    """What can be raised can be looked up."""
    table = "".join(line for line in PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("| `"))
    assert [name for name in _below(errors.KvError) if f"`{name}`" not in table] == []
