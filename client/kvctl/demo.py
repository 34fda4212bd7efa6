"""The demo: a cluster of real processes, a steady load, a crash, a partition, and what became of every write.

Owns the plot. Nothing is staged: what is printed was measured in this run, and a claim that does not hold makes it fail.

The acts: three daemons start; an open loop of strong and eventual operations runs, and money moves between two shards; the
leader of the busiest shard is killed with SIGKILL in the middle of a transfer; it comes back and catches up; a node that cannot
reach the others takes an eventual write, which converges; another one is superseded by a strong write; every acknowledged write
is read back.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.markup import escape

import kvclient
from kvapi.v1 import kv_pb2, kv_pb2_grpc
from kvclient.transport import TRANSPORT_DEFAULT, insecure_channel
from kvctl.demo_checks import CONVERGENCE_TIMEOUT_S, NODE_TIMEOUT_S, Checks
from kvctl.demo_load import BUSY_TAG, Load, longest_gap_s
from kvctl.demo_story import Story, span
from kvctl.demo_transfers import SUCCESS, TELLERS, Transfers
from kvctl.failures import ExitCode, Failure
from kvctl.playground import Playground, PlaygroundError, free_base_port

NODES = 3
SHARDS = 8
RATE = 400.0
"""Operations a second."""
STEADY_S = 4.0
DOWN_S = 3.0
"""How long the killed node stays away."""
AFTER_S = 2.0


@dataclass
class Figures:
    """The run's numbers, for programs."""

    values: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[Callable[[], float]]:
        """Measure a block: `name` gets its seconds. Yields a function that says how long it has been."""
        began = time.monotonic()
        yield lambda: time.monotonic() - began
        self.values[name] = round(time.monotonic() - began, 4)


class Demo:
    """One run."""

    def __init__(self, playground: Playground, story: Story, transport: str = "") -> None:
        self.playground, self.story, self.figures = playground, story, Figures()
        self.transport = transport or TRANSPORT_DEFAULT
        self.checks = Checks(playground)
        self.killed_at, self.victim_shards, self.busy_shard = 0.0, set[int](), 0

    async def run(self) -> None:
        """All acts."""
        await self.start()
        async with kvclient.connect(f"{self.playground.uri}?transport={self.transport}") as client:
            load, transfers = Load(client, RATE), Transfers(client)
            await transfers.open()
            running = asyncio.gather(load.run(), transfers.run())
            try:
                await self.serve(load)
                await self.crash(client, transfers)
            finally:
                load.stop()
                transfers.stop()
                await running
            self.crash_report(load)
            await self.audit(transfers)
            await self.island(client)
            await self.supersede(client)
            await self.verify(client, load)
        self.table(load)

    # The acts.

    async def start(self) -> None:
        """Three daemons."""
        story = self.story
        story.chapter("Three daemons start")
        with story.waiting("starting …"), self.figures.timed("start_s") as elapsed:
            await asyncio.to_thread(self.playground.up)
        for node in self.playground.nodes:
            story.fact(f"{node.name}  [bold]{node.address}[/]  pid {node.pid}")
        story.fact(
            f"{self.playground.shards} shards, each on {NODES} nodes, with a leader of its own: "
            f"all serve after [bold]{span(elapsed())}[/]"
        )

    async def serve(self, load: Load) -> None:
        """A steady load."""
        self.story.chapter("A steady load: strong and eventual puts and gets")
        self.story.fact(
            f"{RATE:.0f} operations a second come due (open loop), through the async SDK; "
            "half of the strong puts go to one shard"
        )
        with self.story.waiting("serving …"):
            await asyncio.sleep(STEADY_S)
        acks = [ack.at for ack in load.ledger.acks if ack.busy]
        now = time.monotonic()
        gap = longest_gap_s(acks, now - STEADY_S * 0.75, now)
        self.figures.values["steady_gap_s"] = round(gap, 4)
        self.story.fact(
            f"{len(load.ledger.strong):,} strong and {len(load.ledger.eventual):,} eventual puts acknowledged; "
            f"the busy shard never paused longer than [bold]{span(gap)}[/]"
        )

    async def crash(self, client: kvclient.AsyncClient, transfers: Transfers) -> None:
        """kill -9 of a leader, and its return."""
        story, figures, playground = self.story, self.figures, self.playground
        shape = await asyncio.to_thread(self.checks.topology)
        location = await client.locate(f"load/{BUSY_TAG}/")
        victim = next(member.name for member in shape.members if member.address == location.leader)
        led = sorted(shard.shard for shard in shape.shards if shard.leader == victim)
        self.victim_shards, self.busy_shard = set(led), location.shard
        story.chapter(f"kill -9 {victim}, the leader of the busy shard, in the middle of transfers")
        await transfers.volley()
        self.killed_at = time.monotonic()
        playground.kill(victim)
        figures.values |= {"victim": victim, "busy_shard": location.shard, "shards_led": led}
        story.fact(f"{victim} led shards {', '.join(map(str, led))}; the busy one is {location.shard}")
        with story.waiting("the others elect new leaders …"):
            await asyncio.sleep(DOWN_S)
        location = await client.locate(f"load/{BUSY_TAG}/")
        leader = next((member.name for member in shape.members if member.address == location.leader), "nobody")
        story.claim(leader not in (victim, "nobody"), f"{leader} leads the busy shard now")

        story.chapter(f"{victim} comes back")
        with story.waiting(f"starting {victim} …"), figures.timed("restart_s") as elapsed:
            await asyncio.to_thread(playground.start, victim)
        behind = await asyncio.to_thread(self.checks.entries_behind, victim)
        story.fact(f"it answered after [bold]{span(elapsed())}[/], {behind:,} log entries behind the leaders")
        with story.waiting(f"{victim} catches up …"):
            caught_up_s = await asyncio.to_thread(self.checks.catch_up, victim)
        figures.values |= {"entries_behind": behind, "caught_up_s": caught_up_s and round(caught_up_s, 4)}
        if caught_up_s is None:
            story.claim(False, f"{victim} caught up")
        else:
            story.claim(
                True, f"{victim} had applied all that the leaders had [bold]{span(caught_up_s)}[/] later, the load going on"
            )
        with story.waiting("serving …"):
            await asyncio.sleep(AFTER_S)

    def crash_report(self, load: Load) -> None:
        """What the crash did to the writes."""
        ledger, figures, until = load.ledger, self.figures, time.monotonic()
        since = self.killed_at
        groups = {
            "busy": [ack.at for ack in ledger.acks if ack.busy],
            "others_of_victim": [ack.at for ack in ledger.acks if not ack.busy and ack.shard in self.victim_shards],
            "led_by_survivors": [ack.at for ack in ledger.acks if ack.shard not in self.victim_shards],
        }
        gaps = {name: longest_gap_s(times, since, min(until, since + DOWN_S)) for name, times in groups.items()}
        figures.values |= {f"crash_gap_{name}_s": round(gap, 4) for name, gap in gaps.items()}
        figures.values["failures"] = dict(ledger.failures)
        self.story.chapter("What the crash cost")
        self.story.fact(
            f"busy shard: no strong write was acknowledged for [bold]{span(gaps['busy'])}[/] (the longest gap between two "
            f"acknowledgements; before the crash it was {span(figures.values['steady_gap_s'])})"
        )
        self.story.fact(f"shards that the survivors led all along: longest gap [bold]{span(gaps['led_by_survivors'])}[/]")
        failed = ", ".join(f"{count} {reason}" for reason, count in ledger.failures.most_common()) or "none"
        self.story.fact(f"of {load.issued:,} operations in the whole run failed: [bold]{failed}[/]")

    async def audit(self, transfers: Transfers) -> None:
        """What the crash did to the transfers."""
        book, wrong = transfers.book, transfers.wrong_sums
        others = Counter(transfer.reported for transfer in book if transfer.reported != SUCCESS)
        struck = [transfer.ended - self.killed_at for transfer in book if transfer.began <= self.killed_at < transfer.ended]
        balanced = await self.checks.patiently(transfers.balanced)
        self.figures.values |= {
            "transfers": len(book),
            "transfers_without_success": dict(others),
            "transfers_refused": dict(transfers.refusals),
            "transfers_struck_s": [round(seconds, 4) for seconds in struck],
            "audits": transfers.audits,
            "audits_wrong": len(wrong),
        }
        self.story.chapter("Money moved between the busy shard and others all the while")
        sums = f"{len(wrong)} saw another sum, as {wrong[0]:,}" if wrong else "the sum was always the same"
        self.story.claim(
            balanced and not wrong,
            f"{transfers.audits:,} read-only transactions looked at all {2 * TELLERS} accounts: [bold]{sums}[/]"
            + ("" if balanced else "; what is there now is not what was acknowledged"),
        )
        told = ", ".join(f"{count} ended with {reason}" for reason, count in others.items()) or "the crash struck none"
        if struck and not others:
            told = (
                f"all reported success, of the {len(struck)} that the crash struck the last after [bold]{span(max(struck))}[/]"
            )
        self.story.claim(
            bool(struck) and not others, f"{len(book):,} transfers, each a compare-and-set of two accounts: {told}"
        )

    async def island(self, client: kvclient.AsyncClient) -> None:
        """An eventual write on a node that cannot reach the others."""
        story, figures, playground = self.story, self.figures, self.playground
        island, *others = playground.names
        story.chapter(f"{' and '.join(others)} freeze (SIGSTOP): {island} is alone, and still takes eventual writes")
        for name in others:
            playground.pause(name)
        try:
            async with insecure_channel(self.transport, playground.node(island).address) as channel:
                operation_id = await self.write_alone(channel, island, b"island", b"written alone")
                await self.strong_write_alone(channel, island)
        finally:
            for name in others:
                playground.resume(name)
        resumed_at = time.monotonic()
        story.fact(f"{' and '.join(others)} go on (SIGCONT)")
        with story.waiting("converging …"):
            fate = await self.checks.settled(client, operation_id)
        applied_s = time.monotonic() - resumed_at
        figures.values |= {"island_state": state_name(fate), "island_converged_s": round(applied_s, 4)}
        value = await client.get(b"island")
        seen_s = time.monotonic() - resumed_at
        if story.claim(
            state_name(fate) == "APPLIED" and value is not None and value.value == b"written alone",
            f"[bold]{span(applied_s)}[/] later the write is {state_name(fate).lower()}; "
            f"after [bold]{span(seen_s)}[/] a strong read has seen it",
        ):
            assert value is not None
            story.fact(f"its place in the history of shard {value.served.shard}: revision {value.revision}")

    async def write_alone(self, channel: grpc.aio.Channel, island: str, key: bytes, value: bytes) -> str:
        """An eventual write straight to one node, read back there. Returns its operation id."""
        stub = kv_pb2_grpc.KVStub(channel)
        began = time.monotonic()
        put: kv_pb2.PutResponse = await stub.Put(
            kv_pb2.PutRequest(key=key, value=value, consistency=kv_pb2.CONSISTENCY_EVENTUAL), timeout=NODE_TIMEOUT_S
        )
        self.figures.values[f"{key.decode()}_accepted_s"] = round(time.monotonic() - began, 4)
        self.story.fact(
            f"eventual put {key.decode()} = {value.decode()!r} on {island}: on its disk and acknowledged after "
            f"[bold]{span(time.monotonic() - began)}[/]"
        )
        get: kv_pb2.GetResponse = await stub.Get(
            kv_pb2.GetRequest(key=key, consistency=kv_pb2.CONSISTENCY_EVENTUAL), timeout=NODE_TIMEOUT_S
        )
        self.story.claim(
            get.found and get.value == value and get.tentative, f"an eventual read on {island} shows it, marked as tentative"
        )
        return put.operation_id

    async def strong_write_alone(self, channel: grpc.aio.Channel, island: str) -> None:
        """A strong write without a majority: it must not be acknowledged."""
        stub = kv_pb2_grpc.KVStub(channel)
        began = time.monotonic()
        try:
            await stub.Put(kv_pb2.PutRequest(key=b"island/strong", value=b"?"), timeout=1.0)
            said = ""
        except grpc.aio.AioRpcError as error:
            said = error.code().name
        elapsed_s = time.monotonic() - began
        self.story.claim(
            bool(said),
            f"a strong put there is not acknowledged: there is no majority ({said or 'OK'} after {span(elapsed_s)})",
        )

    async def supersede(self, client: kvclient.AsyncClient) -> None:
        """An eventual write that loses against a strong one."""
        story, figures, playground = self.story, self.figures, self.playground
        island, *others = playground.names
        story.chapter("An eventual write that comes too late is superseded, and says so")
        await self.checks.patiently(lambda: client.put(b"contested", b"before", timeout=NODE_TIMEOUT_S))
        for name in others:
            playground.kill(name)
        story.fact(f"kill -9 {' and '.join(others)}")
        async with insecure_channel(self.transport, playground.node(island).address) as channel:
            operation_id = await self.write_alone(channel, island, b"contested", b"eventual")
        playground.pause(island)
        try:
            began = time.monotonic()
            with story.waiting(f"starting {' and '.join(others)} …"):
                await asyncio.gather(*(asyncio.to_thread(playground.start, name) for name in others))
                strong = await self.checks.patiently(lambda: client.put(b"contested", b"strong", timeout=NODE_TIMEOUT_S))
            majority_s = time.monotonic() - began
            figures.values["majority_back_s"] = round(majority_s, 4)
            story.fact(
                f"{island} freezes; {' and '.join(others)} start again, elect leaders, and take a strong put "
                f"contested = 'strong' as revision {strong.revision}, all within [bold]{span(majority_s)}[/]"
            )
        finally:
            playground.resume(island)
        resumed_at = time.monotonic()
        with story.waiting(f"{island} goes on …"):
            fate = await self.checks.settled(client, operation_id)
        settled_s = time.monotonic() - resumed_at
        value = await client.get(b"contested")
        figures.values |= {"contested_state": state_name(fate), "contested_settled_s": round(settled_s, 4)}
        story.claim(
            fate is not None and state_name(fate) == "SUPERSEDED" and fate.superseded_by == strong.revision,
            f"{island} goes on: [bold]{span(settled_s)}[/] later its write is {state_name(fate).lower()}"
            + (f" by revision {fate.superseded_by} ({fate.reason.name.lower().replace('_', ' ')})" if fate else ""),
        )
        story.claim(
            value is not None and value.value == b"strong", "a strong read gives 'strong': the write it had not seen stands"
        )

    async def verify(self, client: kvclient.AsyncClient, load: Load) -> None:
        """Every acknowledged write is there; the replicas agree."""
        story, ledger = self.story, load.ledger
        story.chapter("Every acknowledged write is read back")
        present = {item.key: item.value async for item in client.range(prefix="load/", timeout=CONVERGENCE_TIMEOUT_S)}
        lost = {
            kind: [key for key, value in promised.items() if present.get(key) != value]
            for kind, promised in (("strong", ledger.strong), ("eventual", ledger.eventual))
        }
        happened = sum(present.get(key) == value for key, value in ledger.unknown.items())
        self.figures.values |= {
            "strong_acknowledged": len(ledger.strong),
            "strong_lost": len(lost["strong"]),
            "eventual_acknowledged": len(ledger.eventual),
            "eventual_lost": len(lost["eventual"]),
            "unknown": len(ledger.unknown),
            "unknown_happened": happened,
            "stale_strong_reads": len(ledger.stale_strong_reads),
        }
        for kind, promised in (("strong", ledger.strong), ("eventual", ledger.eventual)):
            missing = f"{len(lost[kind])} lost, as {lost[kind][0].decode()}" if lost[kind] else "none lost"
            story.claim(not lost[kind], f"{len(promised):,} {kind} puts acknowledged: [bold]{missing}[/]")
        if ledger.unknown:
            story.fact(f"{len(ledger.unknown)} strong puts ended as OutcomeUnknown: {happened} of them took effect")
        story.claim(
            not ledger.stale_strong_reads, f"{len(ledger.stale_strong_reads) or 'no'} strong read missed an acknowledged write"
        )
        shards, seconds = await asyncio.to_thread(self.checks.agreement)
        self.figures.values |= {"shards_agreeing": shards, "agreement_s": round(seconds, 4)}
        story.claim(
            shards == self.playground.shards,
            f"in {shards} of {self.playground.shards} shards all replicas have the same state hash",
        )

    def table(self, load: Load) -> None:
        """The latencies of the whole run."""
        rows = load.latencies.rows()
        self.figures.values |= {"operations": load.issued, "in_flight_most": load.in_flight_most}
        self.figures.values["latency"] = [row._asdict() for row in rows]
        self.story.chapter("Latencies of the whole run, the crash included")
        self.story.fact(
            f"[dim]from the moment an operation was due, so that a stall counts for all it delayed; "
            f"{load.issued:,} operations, at most {load.in_flight_most} at once[/]"
        )
        self.story.latencies(rows)


def state_name(fate: kvclient.OperationResult | None) -> str:
    """What became of an eventual write, in a word."""
    return fate.state.name if fate is not None else "UNKNOWN"


def run_demo(*, json_path: Path | None = None, transport: str = "", directory: Path | None = None) -> None:
    """Run the demo in a directory of its own, or in `directory`, whose files are kept. `transport`: of daemons and clients;
    empty: what they take by themselves. Raises Failure if a claim failed.
    """
    story = Story()
    story.title(
        "kvnode: a replicated key-value store, at work",
        f"{NODES} daemons as processes of their own, on this machine's disk. Every number below was measured in this run.",
    )
    place = directory or Path(tempfile.mkdtemp(prefix="kvctl-demo-"))
    playground = Playground.create(
        place, NODES, None if directory else free_base_port(NODES), shards=SHARDS, transport=transport or None
    )
    demo = Demo(playground, story, transport)
    try:
        asyncio.run(demo.run())
    except (kvclient.KvError, grpc.RpcError, PlaygroundError) as error:
        story.claim(False, f"the run broke off: {escape(str(error))}")
    finally:
        for node in playground.nodes:
            if node.state == "died":
                story.claim(False, f"{node.name} kept running; its last words:\n{escape(playground.log_tail(node.name, 1))}")
        playground.down()
        if json_path is not None:
            claims = [{"held": ok, "claim": text} for ok, text in story.claims]
            figures = {"seconds": round(story.seconds, 3), "held": story.held, "claims": claims, **demo.figures.values}
            json_path.write_text(json.dumps(figures, indent=2) + "\n")
    story.end()
    if not story.held:
        raise Failure(
            ExitCode.PLAYGROUND, "CLAIM_FAILED", "the demo did not show what it claims", f"logs and data are in {place}"
        )
    if directory is None:
        shutil.rmtree(place)
