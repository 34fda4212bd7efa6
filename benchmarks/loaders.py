"""Load generators in C, which are the same for every server: grpcload (ours, built on first use) and h2load (Debian's).

grpcload counts only calls whose grpc-status is 0, but has no TLS and no streams; h2load has both, and looks at HTTP alone.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Failed(Exception):
    """A measurement that cannot be had, and why."""


HERE = Path(__file__).resolve().parent
BINARY = HERE.parent / "build" / "grpcload"
WARM_UP_S = 0.3


def build_grpcload() -> Path:
    """The loader's binary, built when its source is newer; exits with what is missing."""
    source = HERE / "grpcload.c"
    if BINARY.exists() and BINARY.stat().st_mtime >= source.stat().st_mtime:
        return BINARY
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("The load generator is in C, and there is no compiler: on Debian, apt-get install gcc libnghttp2-dev.")
    BINARY.parent.mkdir(exist_ok=True)
    made = subprocess.run(
        [compiler, "-O2", "-o", BINARY, source, "-lnghttp2"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    if made.returncode:
        hint = "On Debian, apt-get install libnghttp2-dev.\n" if "nghttp2" in made.stderr else ""
        raise SystemExit(f"{hint}{source.name} does not compile:\n{made.stderr}")
    return BINARY


def find_h2load() -> str:
    """The path of h2load; exits with the package that has it."""
    found = shutil.which("h2load")
    if found is None:
        raise SystemExit(
            "TLS and streams need h2load: on Debian, apt-get install nghttp2-client. Or leave them out with --only."
        )
    return found


def grpcload(target: str, path: str, connections: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """A closed loop of unary calls; what the loader says of it. Raises `Failed` when a call fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("".join(f"0 bench/key-{number:08}\n" for number in range(1_000)))
        keys.flush()
        command: Sequence[Any] = [
            build_grpcload(),
            "-t",
            target,
            "-p",
            path,
            "-k",
            keys.name,
            "-c",
            connections,
            "-m",
            in_flight,
        ]
        said = _run([*command, "-s", seconds, "-w", WARM_UP_S], seconds)
    found: dict[str, Any] = json.loads(said)
    if found["bad"] or found["transport_errors"] or not found["good"]:
        raise Failed(f"calls of {path} failed: {said}")
    return found


class Answered(NamedTuple):
    """Requests that were answered, and how many there were a second."""

    total: int
    per_second: float


def h2load(url: str, connections: int, in_flight: int, *, seconds: float | None = None, calls: int = 0) -> Answered:
    """Requests for a time or a number of calls. Raises `Failed` when one fails."""
    with tempfile.NamedTemporaryFile(suffix=".body") as body:
        body.write(b"\0\0\0\0\x14" + b"k" * 20)  # one message of 20 bytes, not compressed
        body.flush()
        command: Sequence[Any] = [find_h2load(), "-c", connections, "-m", in_flight, "-d", body.name]
        amount = ["-D", f"{round(seconds * 1000)}ms"] if seconds else ["-n", calls]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        said = _run([*command, *amount, *headers, url], seconds or 30)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    counted = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    if rate is None or counted is None or counted[1] == "0" or any(int(counted[i]) for i in (2, 3, 4)):
        raise Failed(f"h2load {url}:\n{said}")
    return Answered(int(counted[1]), float(rate[1]))


def _run(command: Sequence[Any], seconds: float) -> str:
    """What a loader prints; it is ended when it takes far longer than it was told to."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 30).stdout
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words)} takes more than {seconds + 30:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise Failed(str(error)) from None
