"""What programs do not load, so that a node is back quickly and `kvctl` answers at once: each of these costs 10 to 100 ms."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIST = """
print(*{name.partition(".")[0] for name, module in sys.modules.items() if module})
print("otel-sdk" if "opentelemetry.sdk" in sys.modules else "")
"""
RUN = "from kvnode.__main__ import _load_server; _load_server()"
PUT = """
import kvctl.app
sys.argv = ["kvctl", "--endpoints", "127.0.0.1:1", "--timeout", "0.001", "put", "key", "value"]
try:
    kvctl.app.main()
except SystemExit as left:
    assert left.code == 4, left.code
"""
SDK = "import kvclient"


@pytest.mark.parametrize(
    ("code", "never"),
    [
        (RUN, "dotenv duckdb hdrh hypothesis kvctl pydantic_settings pygments rich typer yaml"),
        (PUT, "aiohttp duckdb hdrh hpack hypothesis kvnode lmdb otel-sdk prometheus_client structlog uvloop yaml"),
        (SDK, "duckdb hdrh kvctl kvnode otel-sdk prometheus_client pydantic rich typer"),
    ],
    ids=["kvnode run", "kvctl put", "import kvclient"],
)
def test_program_started_loads_only_what_it_uses(code: str, never: str) -> None:
    """A late import has its place in the function that needs it, or its user pays at every start."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{LIST}"], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(never.split()) == set()
