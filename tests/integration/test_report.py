"""The page that `kvctl report` makes of a real cluster, in a real browser: what is in it, and what a person does with it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import kvclient
from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2
from kvclient.histogram import Histogram, merged
from kvclient.otlp_json import JsonLinesExporter
from kvctl.admin import Admin
from kvctl.availability.ask import Collected, collect
from kvctl.availability.merge import availability
from kvctl.availability.model import Availability
from kvctl.playground import Playground
from kvctl.traces.latency import read_latency
from kvctl.traces.words import duration_words
from tests.integration import browser, harness
from tests.unit.kvctl.traces.synthetic import Scene, trace_id_of, write

PUT = ("put", kv_pb2.CONSISTENCY_STRONG, "")
PUTS, GETS, TXNS = 60, 40, 8
EVIL = "<img src=x onerror=document.title=1>\"'</script><script>document.title=2</script>"


@dataclass(frozen=True)
class Made:
    """A page, and what the cluster said that it was made of."""

    path: Path
    killed: str
    """The node that crashed."""
    puts: Histogram
    """Strong ones, on all nodes."""
    availability: Availability


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    """One browser for all tests of this module; they are skipped where it is not installed."""
    found = browser.program()
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with browser.browser(found) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, chromium: browser.Browser) -> Made:
    """A page of a cluster that served some load, lost a node to a crash and got it back."""
    directory = tmp_path_factory.mktemp("report")
    clients = directory / "clients.jsonl"
    with harness.playground(settings={"tracing.sample_ratio": 1.0, "tracing.kept_per_second_max": 1000}) as cluster:
        killed = asyncio.run(_load(cluster, clients))
        with Admin(cluster.endpoints, 10) as admin:
            snapshot = read_latency(admin)
            told = harness.until(lambda: _settled(admin, killed), what="the same word of all nodes about the outage, twice")
        puts = merged(node.series[PUT] for node in snapshot.nodes.values() if PUT in node.series)
        path = directory / "report.html"
        report(str(clients), "-e", ",".join(cluster.endpoints), "-o", str(path))
    return Made(path, killed, puts, availability(told.answers, told.missing, told.replicas))


def _settled(admin: Admin, killed: str) -> Collected | None:
    """What nodes tell, once it does not change any more: they hear of a restart, and record it, one after the other."""
    first, second = collect(admin), collect(admin)
    outages = [
        next(node for node in availability(told.answers, told.missing, told.replicas).nodes if node.name == killed)
        for told in (first, second)
    ]
    is_over = not any(outage.ongoing for outage in outages[1].outages)
    same = [outage.span for outage in outages[0].outages] == [outage.span for outage in outages[1].outages]
    return second if is_over and same and len(first.answers) == len(second.answers) == 3 else None


async def _load(cluster: Playground, clients: Path) -> str:
    """Some of everything; then a leader is killed, is missed, and comes back: its name."""
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(clients, size_bytes_max=1 << 24, kept=1)))
    async with kvclient.connect(f"{cluster.uri}?transport={harness.TRANSPORT}", tracer_provider=provider) as client:
        for number in range(PUTS):
            await client.put(f"report/{number}", "x")
        for number in range(GETS):
            await client.get(f"report/{number}")
            await client.put(f"report/later/{number}", "x", consistency="eventual")
        for number in range(TXNS):
            await client.txn().then(kvclient.Put(f"a/{number}", "1"), kvclient.Put(f"b/{number}", "2")).run()
        leader = harness.leader_name(cluster, b"report/0")
        cluster.kill(leader)
        await client.put("report/0", "again", timeout=harness.CONVERGENCE_TIMEOUT_S)
        await harness.until_async(
            lambda: asyncio.to_thread(_is_missed, cluster, leader), what=f"the record that {leader} failed"
        )
        cluster.start(leader)
        await asyncio.to_thread(cluster.wait_caught_up, leader, harness.CONVERGENCE_TIMEOUT_S)
    provider.shutdown()
    return leader


def _is_missed(cluster: Playground, name: str) -> bool:
    with Admin(cluster.endpoints, 5) as admin:
        answers = admin.each(
            [node.address for node in cluster.nodes if node.state == "running"],
            lambda stub, timeout_s: stub.Events.future(cluster_pb2.EventsRequest(node=name), timeout=timeout_s),
        )
    told = (answer.events for answer in answers.values() if isinstance(answer, cluster_pb2.EventsResponse))
    return any(event.to == message_pb2.NODE_STATE_FAILED for events in told for event in events)


def report(*arguments: str) -> None:
    """`kvctl report`, as a process."""
    subprocess.run([sys.executable, "-m", "kvctl", "report", *arguments], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.fixture
def page(chromium: browser.Browser, made: Made) -> browser.Page:
    """The page, freshly opened in a wide window."""
    return chromium.open(made.path)


def test_page_offline_runs_and_asks_for_nothing(page: browser.Page, made: Made) -> None:
    """Without a network it loads, its script has run, it says nothing on the console and asks for nothing but itself."""
    assert page.run("document.documentElement.dataset.ready") == "1"
    assert page.run("document.body.classList.contains('ready')") is True
    assert page.requests == [made.path.as_uri()]
    assert page.complaints == []


def test_page_shows_what_the_cluster_counted(page: browser.Page, made: Made) -> None:
    """Latency of all puts, merged over nodes: count and percentiles; the client's view of them; stages with their shares."""
    rows = {tuple(cells[:2]): cells for cells in cells_of(page, "#latency table")}
    put = rows["put", "strong"]
    assert put[2] == f"{made.puts.count:,}"
    assert put[4] == duration_words(made.puts.percentile(50) * 1000)
    assert put[8] == duration_words(made.puts.max_us * 1000)
    assert int(rows["put", "strong in the client"][2]) == PUTS + 1
    assert int(rows["get", "strong in the client"][2]) == GETS
    assert int(rows["txn", "strong in the client"][2]) == TXNS
    assert page.run("document.querySelectorAll('#latency path.line').length") >= 6
    tables = [f"[role=tabpanel]:not([hidden]) .scroll:nth-of-type({place}) table" for place in (1, 2)]
    for stages in [cells_of(page, table) for table in tables]:
        assert len(stages) > 1
        assert 80 < sum(float(cells[1].strip("<>% ")) for cells in stages) < 105


def cells_of(page: browser.Page, selector: str) -> list[list[str]]:
    """The texts of a table's cells, row by row."""
    script = "[...document.querySelectorAll(%r)].map(r => [...r.cells].map(c => c.textContent))"
    return page.run(script % f"{selector} tbody tr")  # type: ignore[no-any-return]


def test_page_shows_the_crash_as_the_nodes_recorded_it(page: browser.Page, made: Made) -> None:
    """One failure of one node, as long as its record says, at its place in the line; elections are marked."""
    node = next(node for node in made.availability.nodes if node.name == made.killed)
    assert node.figures.failures == 1
    assert node.figures.longest is not None
    lines = {cells[0]: cells for cells in cells_of(page, "#availability table.lines")}
    assert {name: lines[name][3] for name in ("n1", "n2", "n3")} == {"n1": "0", "n2": "0", "n3": "0"} | {made.killed: "1"}
    assert {name for name in ("n1", "n2", "n3") if lines[name][2] == "100 %"} == {"n1", "n2", "n3"} - {made.killed}
    box = page.run(
        f"""(() => {{ const rows = [...document.querySelectorAll("table.lines tr")];
        const row = rows.find(r => r.cells[0].textContent == "{made.killed}");
        const line = row.querySelector(".lane").getBoundingClientRect();
        const out = row.querySelector(".failed").getBoundingClientRect();
        return [(out.left - line.left) / line.width, out.width / line.width]; }})()"""
    )
    # (The page was made a little later: its window ends later. What is before and within the outage is as it was.)
    window, outage = made.availability.window, node.figures.longest.span
    assert box[0] / box[1] == pytest.approx((outage.from_ms - window.from_ms) / outage.ms, rel=0.05)
    assert 0 < box[0] < box[0] + box[1] < 1
    failed_over = [one for shard in made.availability.shards for one in shard.elections if one.cause == "NODE_FAILED"]
    assert failed_over
    assert page.run("document.querySelectorAll('table.lines .mark.election.bad').length") >= len(failed_over)
    assert f"{made.killed} failed at" in page.texts("header .findings li")[0]
    assert any("NODE_FAILED" in text or "had failed" in text for text in page.texts("#availability details td"))


def test_page_shows_how_requests_ended(page: browser.Page, made: Made) -> None:
    """All that clients asked for was answered, in the end; what nodes refused meanwhile is told by its reason."""
    clients = [cells for cells in cells_of(page, "#outcomes .scroll:last-of-type table") if cells[:2] == ["put", "strong"]]
    assert [cells[2:5] for cells in clients][-1] == ["100 %", str(PUTS + 1), "0"]
    nodes = next(one for one in made.availability.outcomes if (one.operation, one.consistency) == ("put", "STRONG"))
    (shown,) = [cells for cells in cells_of(page, "#outcomes table") if cells[:2] == ["put", "strong"]][:1]
    assert shown[3] == f"{nodes.answered:,}"
    assert shown[4] == f"{nodes.unanswered:,}"


def test_click_on_a_slow_request_opens_its_waterfall(page: browser.Page) -> None:
    """The explanation is there before; a click shows the bars, another one hides them; a key does the same."""
    script = (
        "(() => { const c = document.querySelector('.slow'); return [c.open, c.querySelector('.waterfall').offsetHeight]; })()"
    )
    why = page.texts(".slow .why")
    assert all(re.match(r"[A-Z]\w* (took|failed)", text) for text in why)
    assert page.run(script)[0] is False
    page.click(".slow summary")
    opened, height = page.run(script)
    assert opened is True
    assert height > 60
    assert page.run("document.querySelectorAll('.slow[open] .waterfall rect').length") >= 4
    page.click(".slow summary")
    assert page.run(script)[0] is False
    page.run("document.querySelector('.slow summary').focus()")
    page.press("Enter")
    assert page.run(script)[0] is True
    page.click(".expand")
    assert page.run("[...document.querySelectorAll('.slow')].every(card => card.open)") is True


def test_tabs_show_one_kind_of_request_at_a_time(page: browser.Page) -> None:
    """By pointer and by arrow keys."""
    shown = "[...document.querySelectorAll('[role=tabpanel]')].filter(p => p.offsetHeight).map(p => p.id)"
    assert page.run(shown) == ["panel-0"]
    page.click("#tab-1")
    assert page.run(shown) == ["panel-1"]
    page.press("ArrowLeft")
    assert page.run(shown) == ["panel-0"]
    assert page.run("document.activeElement.id") == "tab-0"


def test_hints_tell_what_is_at_the_pointer(page: browser.Page) -> None:
    """A chart's figures at the pointer, and with arrow keys where it has the focus; elsewhere none."""
    assert page.run("document.getElementById('tip').hidden") is True
    page.click("#latency .hit:nth-of-type(2)")
    assert page.run("document.getElementById('tip').hidden") is False
    assert page.run("document.getElementById('tip').textContent").startswith("p")
    page.click("h2")
    assert page.run("document.getElementById('tip').hidden") is True
    page.run("document.querySelector('#stages [role=tabpanel]:not([hidden]) .plot').focus()")
    page.press("ArrowRight")
    assert " · mean " in page.run("document.getElementById('tip').textContent")
    page.press("Escape")
    assert page.run("document.getElementById('tip').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_window_holds_all_of_the_page(chromium: browser.Browser, made: Made, scheme: str) -> None:
    """At 400 pixels nothing is beyond the edge, expanded or not; wide tables scroll by themselves. Light and dark differ."""
    page = chromium.open(made.path, width=400, scheme=scheme)
    beyond = """[...document.querySelectorAll("main *, nav")].filter(e => e.getBoundingClientRect().right > 401
        && !e.closest(".scroll, .opened, nav, .unseen")).map(e => e.outerHTML.slice(0, 80))"""
    assert page.run("document.documentElement.scrollWidth") == 400
    assert page.run(beyond) == []
    page.run("document.querySelectorAll('details').forEach(card => { card.open = true; })")
    assert page.run("document.documentElement.scrollWidth") == 400
    assert page.run(beyond) == []
    ground = [int(part) for part in re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))]
    assert (sum(ground) > 384) == (scheme == "light")
    assert page.complaints == []


def test_paper_shows_every_kind_and_is_light(page: browser.Page) -> None:
    """Printed, nothing waits for a click: all panels are there, the navigation is not, the ground is white."""
    page.prefer("dark", media="print")
    assert page.run("[...document.querySelectorAll('[role=tabpanel]')].every(p => p.offsetHeight > 0)") is True
    assert page.run("document.querySelector('nav').offsetHeight") == 0
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_hostile_names_do_nothing_in_a_browser(chromium: browser.Browser, tmp_path: Path) -> None:
    """They are read as text, run nothing, load nothing, and are shown in a hint as they are."""
    scene = Scene(trace_id_of(1))
    root = scene.client(EVIL, 0, 100, error__type=EVIL, failed=True, kvnode__consistency=EVIL)
    server = scene.server(EVIL, 2, 90, root, EVIL, kvnode__kept=EVIL)
    scene.stages(server, EVIL, 2, {EVIL: 40, "log_write": 48})
    target = tmp_path / "report.html"
    report(str(write(tmp_path / "traces.jsonl", scene.spans)), "-o", str(target))
    page = chromium.open(target)
    page.run("document.querySelectorAll('details').forEach(card => { card.open = true; })")
    page.click(".composition rect:last-of-type")
    assert EVIL in page.run("document.getElementById('tip').textContent") or "log_write" in page.run(
        "document.getElementById('tip').textContent"
    )
    assert page.run("document.title") == "kvnode report"
    assert page.run("document.querySelectorAll('img, iframe, object, main script').length") == 0
    assert EVIL in page.run("document.body.innerText")
    assert page.requests == [target.as_uri()]
    assert page.complaints == []
