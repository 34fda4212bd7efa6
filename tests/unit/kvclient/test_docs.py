"""The examples in docs/sdk.md run as they stand."""

from __future__ import annotations

import asyncio
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
def test_sdk_page_example_runs(inside: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole programs run alone; blocks marked `async` inside `async with kvclient.connect(...) as kv`."""
    with running_cluster() as (cluster, _):
        if not inside:
            exec(compile(ADDRESS.sub(cluster.uri, code), str(PAGE), "exec"), {"__name__": "__main__"})
            return
        asyncio.run(_run_inside(cluster.uri, code))


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
