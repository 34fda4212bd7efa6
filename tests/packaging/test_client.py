"""The client's wheel, alone in an environment of its own, as those have it who only use a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvctl.playground import Playground
from tests.packaging.stage import built
from tools import wheels

ABSENT = (
    "kvnode",
    "duckdb",
    "hdrhistogram",
    "lmdb",
    "opentelemetry-sdk",
    "prometheus-client",
    "pydantic",
    "structlog",
    "uvloop",
)
"""What only the server and the command line need."""

ASYNCIO = """
import asyncio, sys
import kvclient

async def main():
    async with kvclient.connect(sys.argv[1]) as kv:
        await kv.put("greeting", "hello")
        sold = await kv.txn().if_(kvclient.Key("greeting").value == "hello").then(kvclient.Put("sold", "yes")).run()
        await kv.put("clicks", "1", consistency="eventual")
        found = [item.key async for item in kv.range(prefix="", consistency="strong")]
        print((await kv.get("greeting")).text, sold.succeeded, b"sold" in found)

asyncio.run(main())
"""
THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import kvclient

with kvclient.connect_sync(sys.argv[1]) as kv, ThreadPoolExecutor(4) as threads:
    list(threads.map(lambda number: kv.put(f"threads/{number}", str(number)), range(20)))
    print(sum(int(item.value) for item in kv.range(prefix="threads/")))
"""
ALL_MODULES = """
import importlib, json, pkgutil, sys
import kvapi, kvclient, kvwire

failed = {}
for package in (kvapi, kvclient, kvwire):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = error.name
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which nothing but the client's wheel was asked for."""
    directory = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    python = directory / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--no-compile", built()["kvnode_client"]], env=wheels.ENVIRONMENT, check=True)
    return python


def test_client_environment_lacks_the_server_and_its_dependencies(python: Path) -> None:
    """Who asks for the client gets little more than grpcio and protobuf."""
    script = "import importlib.metadata as m, json; print(json.dumps([d.metadata['Name'] for d in m.distributions()]))"
    found = {name.lower().replace("_", "-") for name in json.loads(_run(python, script))}
    assert "kvnode-client" in found
    assert not found.intersection(ABSENT)
    assert len(found) <= 12, sorted(found)


def test_client_modules_without_extras_can_all_be_imported(python: Path) -> None:
    """No module needs what was not declared; but for the one that extends OpenTelemetry's SDK, for those who have it."""
    assert json.loads(_run(python, ALL_MODULES)) == {"kvclient.otlp_json": "opentelemetry.sdk"}


@pytest.mark.parametrize("transport", ["kvwire", "grpcio"])
def test_client_with_asyncio_reads_what_it_wrote(python: Path, node: Playground, transport: str) -> None:
    """Put, get, a transaction, an eventual write and a range, over both transports."""
    assert _run(python, ASYNCIO, f"{node.uri}?transport={transport}") == "hello True True\n"


def test_client_with_threads_reads_what_they_wrote(python: Path, node: Playground) -> None:
    """Threads share a client."""
    assert _run(python, THREADS, node.uri) == f"{sum(range(20))}\n"


@pytest.mark.parametrize("arguments", [(), ("get", "greeting"), ("--help",)])
def test_kvctl_without_its_extra_says_what_to_install(python: Path, arguments: tuple[str, ...]) -> None:
    """The program comes with the wheel, most of what it needs does not: one sentence, and no traceback."""
    done = subprocess.run([python.with_name("kvctl"), *arguments], env=_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'error: kvctl needs typer, which is not installed: pip install "kvnode-client[cli]"\n'
    assert done.stdout == ""


def _environment() -> dict[str, str]:
    """Without a PYTHONPATH, which would show the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _run(python: Path, script: str, *arguments: str) -> str:
    done = subprocess.run([python, "-I", "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
