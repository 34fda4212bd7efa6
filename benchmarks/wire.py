"""kvwire beside grpcio in one run: calls a second, latency, CPU a call, large messages, and whether memory grows.

    python benchmarks/wire.py [--quick] [--million] [--only server,tls] [--json FILE] [--subject kvwire]

Every server and client is a process of its own, on uvloop. Rounds are interleaved, and whose turn is first alternates; figures
are medians, and what counts is their ratio, since all share one machine. Servers are loaded by programs in C (`loaders.py`);
clients call both servers. CPU is a process's user and system time. Five minutes; `--quick` takes one, and its ratios are rough.
`--million` adds a million calls with headers that differ, and how resident memory has grown after them. The exit code says
whether all bounds that were measured hold, and nothing failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trustme
from loaders import Failed, build_grpcload, find_h2load, grpcload, h2load
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from wire_bounds import PAIRINGS, REFERENCE, SIZES, SUBJECT, Verdict, judge, median, ratio
from wire_peer import SERVICE, WATCHERS, resident_mib

PEER = Path(__file__).with_name("wire_peer.py")
SIDES = (REFERENCE, SUBJECT)
LEVELS = (("1", 1, 1), ("32", 4, 8), ("1,024", 8, 128))
"""In flight; connections; in flight on each."""
AT_ONCE = {"64 KB": 8, "1 MB": 4}
WIDTH = 128
BUSY = 1.0
"""Load average before anything was started."""
SCENARIOS = ("server", "commit", "tls", "watch", "client", "echo")
WARM_UP_CALLS, MANY_CALLS = 100_000, 1_000_000


class Peer:
    """A process of wire_peer.py."""

    def __init__(self, role: str, **settings: Any) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, PEER, role, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.pid = self._process.pid

    def listen(self, limit_s: float = 60.0) -> dict[str, Any]:
        """The next thing that the process says. Raises `Failed` when it says nothing more, or not in time, which is its end."""
        assert self._process.stdout is not None
        timer = threading.Timer(limit_s, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            ended = self._process.wait()
            self._log.seek(0)
            raise Failed(f"{self._log.read()}a process has ended with {ended}")
        said: dict[str, Any] = json.loads(line)
        return said

    def cpu_s(self) -> float:
        """User and system time of all its threads so far (the clock that clock_getcpuclockid(3) names)."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def close(self) -> None:
        """End it, by force if it does not end by itself."""
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Server(Peer):
    """A server process, with TLS on a port of its own."""

    def __init__(self, transport: str, directory: Path) -> None:
        super().__init__("serve", transport=transport, tls=str(directory))
        ports = self.listen()
        self.target, self.tls_target = f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['tls_port']}"


def client_says(transport: str, target: str, phases: list[dict[str, Any]], ca: Path | None = None) -> Iterator[dict[str, Any]]:
    """A client process: what it found in each phase, as soon as it says so. A call may take a millisecond."""
    client = Peer("call", transport=transport, target=target, phases=phases, ca=str(ca) if ca else None)
    try:
        for phase in phases:
            yield client.listen(60.0 + phase.get("calls", 0) / 1_000)
    finally:
        client.close()


class Bench:
    """Both servers, and the figures so far."""

    def __init__(self, transports: Mapping[str, str], seconds: float, directory: Path) -> None:
        self.transports = transports
        self.seconds = seconds
        self.figures: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: {side: [] for side in SIDES})
        self.ca = directory / "ca.pem"
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        certificate = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(self.ca)
        certificate.private_key_pem.write_to_path(directory / "key.pem")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(directory / "cert.pem", append=True)
        self.order = list(SIDES)
        self.servers: dict[str, Server] = {}
        for side in SIDES:
            self.servers[side] = Server(transports[side], directory)

    def close(self) -> None:
        """End the servers."""
        for server in self.servers.values():
            server.close()

    def add(self, figure: str, side: str, value: float) -> None:
        """One round's value."""
        self.figures[figure][side].append(value)

    def server(self, method: str, name: str) -> None:
        """Unary calls at every level."""
        for level, connections, in_flight in LEVELS:
            for side in self.order:
                server = self.servers[side]
                before = server.cpu_s()
                found = grpcload(server.target, f"/{SERVICE}/{method}", connections, in_flight, self.seconds)
                used_us = (server.cpu_s() - before) * 1e6
                scenario = f"{name}, {level} in flight"
                self.add(f"{scenario}/calls a second", side, found["per_second"])
                self.add(f"{scenario}/p50 µs", side, found["p50_us"])
                self.add(f"{scenario}/CPU µs", side, used_us / found["total"])

    def tls(self) -> None:
        """Unary calls over TLS, with a call by a client of gRPC first, since h2load does not look at a call's status."""
        for side in self.order:
            server = self.servers[side]
            list(client_says("grpcio", server.tls_target, [{"method": "Get", "calls": 1}], self.ca))
            before = server.cpu_s()
            answered = h2load(f"https://{server.tls_target}/{SERVICE}/Get", connections=4, in_flight=32, seconds=self.seconds)
            self.add("server, TLS, 128 in flight/calls a second", side, answered.per_second)
            self.add("server, TLS, 128 in flight/CPU µs", side, (server.cpu_s() - before) * 1e6 / answered.total)

    def watch(self) -> None:
        """A server's CPU for a message on one of many streams."""
        for side in self.order:
            server = self.servers[side]
            h2load(f"http://{server.target}/{SERVICE}/Watch", connections=10, in_flight=WATCHERS // 10, calls=WATCHERS)
            self.add(f"server, {WATCHERS} watches/CPU µs", side, server.listen()["watch_cpu_us"])

    def client(self) -> None:
        """CPU a call and latency alone, of both clients against each server."""
        phases = [
            {"method": "Get", "at_once": 64, "seconds": self.seconds, "warm_up_s": 0.3},
            {"method": "Get", "at_once": 1, "seconds": self.seconds, "warm_up_s": 0.1},
        ]
        for server, whose in ((SUBJECT, "its server"), (REFERENCE, "grpcio's server")):
            for side in self.order:
                together, alone = client_says(self.transports[side], self.servers[server].target, phases)
                self.add(f"client, {whose}, 64 at once/CPU µs", side, together["cpu_us"])
                self.add(f"client, {whose}, 64 at once/calls a second", side, together["per_second"])
                self.add(f"client, {whose}, alone/p50 µs", side, alone["p50_us"])
                self.add(f"client, {whose}, alone/CPU µs", side, alone["cpu_us"])

    def echo(self) -> None:
        """Large messages to the server and back, in every pairing."""
        phases = [
            {"method": "Echo", "size": size, "at_once": AT_ONCE[name], "seconds": self.seconds, "warm_up_s": 0.2}
            for name, size in SIZES.items()
        ]
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for server in self.order:
            for client in self.order:
                found[server, client] = []
                before = self.servers[server].cpu_s()
                for phase in client_says(self.transports[client], self.servers[server].target, phases):
                    after = self.servers[server].cpu_s()
                    cpu_us = phase["cpu_us"] + (after - before) * 1e6 / phase["total"]
                    before = after
                    found[server, client].append((phase["mb_per_second"], cpu_us))
        for name, pairing in PAIRINGS.items():
            for size, theirs, ours in zip(SIZES, found[REFERENCE, REFERENCE], found[pairing], strict=True):
                for side, (rate, cpu_us) in ((REFERENCE, theirs), (SUBJECT, ours)):
                    self.add(f"echo {size}, {name}/MB a second", side, rate)
                    self.add(f"echo {size}, {name}/CPU µs of both", side, cpu_us)

    def million(self) -> None:
        """Resident memory of the subject's server and client before and after a million calls."""
        server, common = self.servers[SUBJECT], {"method": "Get", "at_once": 64, "fresh": True}
        said = client_says(
            self.transports[SUBJECT], server.target, [{**common, "calls": WARM_UP_CALLS}, {**common, "calls": MANY_CALLS}]
        )
        resident = [(resident_mib(server.pid), phase["resident_mib"]) for phase in said]
        self.add("million/server MiB", SUBJECT, resident[1][0] - resident[0][0])
        self.add("million/client MiB", SUBJECT, resident[1][1] - resident[0][1])

    def run(self, scenario: str, number: int) -> None:
        """A round of a scenario."""
        self.order = list(SIDES if number % 2 else reversed(SIDES))
        steps: dict[str, Callable[[], None]] = {
            "server": lambda: self.server("Get", "server"),
            "commit": lambda: self.server("Commit", "server, 1 ms commit"),
            "tls": self.tls,
            "watch": self.watch,
            "client": self.client,
            "echo": self.echo,
            "million": self.million,
        }
        steps[scenario]()


@contextmanager
def bench(transports: Mapping[str, str], seconds: float) -> Iterator[Bench]:
    """A bench whose processes end with it."""
    with tempfile.TemporaryDirectory(prefix="wire-bench-") as directory:
        made = Bench(transports, seconds, Path(directory))
        try:
            yield made
        finally:
            made.close()


def figures_table(made: Bench) -> Table:
    """Every figure: both medians, the ratio, and how far the rounds of the subject lie apart."""
    table = Table(title="Medians of interleaved rounds")
    table.add_column("scenario", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    for head in (made.transports[REFERENCE], made.transports[SUBJECT], "ratio", "rounds of the latter"):
        table.add_column(head, justify="right", no_wrap=True)
    for figure, values in made.figures.items():
        scenario, measure = figure.rsplit("/", 1)
        by, spread = ratio(made.figures, figure), values[SUBJECT]
        medians = (median(made.figures, figure, side) for side in SIDES)
        table.add_row(
            scenario,
            measure,
            *("" if value is None else f"{value:,.1f}" for value in medians),
            "" if by is None else f"x {by:.2f}",
            f"{min(spread):,.1f} - {max(spread):,.1f}" if spread else "",
        )
    return table


def verdicts_table(verdicts: list[Verdict]) -> Table:
    """Each bound, and whether it is met."""
    table = Table("bound", "asked", "measured", "", title="Bounds")
    for claim, asked, measured, holds in verdicts:
        word = {True: "[green]met", False: "[red]missed", None: "[dim]not measured"}[holds]
        table.add_row(claim, asked, "" if measured is None else f"{measured:.2f}", word)
    return table


def machine() -> dict[str, Any]:
    """Where the figures are from."""
    return {
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "cores": os.cpu_count(),
        "load average": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--million", action="store_true", help="a million calls, too; a minute more")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="which of the default, separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument(
        "--subject", default="kvwire", help="a module with kvwire's interface; grpcio shows how far to trust ratios"
    )
    options = parser.parse_args()
    scenarios = [name for name in options.only.split(",") if name]
    if unknown := set(scenarios) - set(SCENARIOS):
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 1.2)
    build_grpcload()
    if {"tls", "watch"} & set(scenarios):
        find_h2load()
    console, about = Console(), machine()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # a file has no width
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), f"; {rounds} rounds of {seconds} s")
    if about["load average"] > BUSY:
        console.print(
            "Others use this machine: trust CPU, not rates. (Who has more threads gets more of a busy machine.)", style="yellow"
        )
    transports = {REFERENCE: "grpcio", SUBJECT: options.subject}
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    steps = [(name, number) for number in range(1, rounds + 1) for name in scenarios] + [("million", 1)] * options.million
    failures: dict[str, str] = {}
    with bench(transports, seconds) as made, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(steps))
        for name, number in steps:
            progress.update(task, description=f"round {number}: {name}")
            if name not in failures:  # What failed once is left out afterwards.
                try:
                    made.run(name, number)
                except (Failed, OSError) as failure:
                    failures[name] = str(failure)
            progress.advance(task)
    verdicts = judge(made.figures)
    console.print(figures_table(made), verdicts_table(verdicts), sep="\n")
    for name, why in failures.items():
        console.print(f"{name} failed: {why}", style="red", markup=False)
    if options.json:
        found = {"machine": about, "transports": transports, "rounds": rounds, "seconds": seconds, "figures": made.figures}
        found["failures"] = failures
        found["bounds"] = [verdict._asdict() for verdict in verdicts]
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 1 if failures or any(verdict.holds is False for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
