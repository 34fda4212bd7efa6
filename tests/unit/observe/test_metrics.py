"""What a node's metrics are called, say and leave out: on whole nodes, read back with Prometheus's own parser."""

from __future__ import annotations

import asyncio
import math

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.observe.metric_families import DURATION_BOUNDS_US, FAMILIES, UNITS
from kvnode.observe.metrics import Metrics
from kvnode.routing.context import RequestContext
from tests.unit.observe.exposed import EVENTUAL, Recorded, exposed, histogram, metrics_of, parsed, value
from tests.unit.observe.whole_nodes import EPOCH_MS, SHARDS, WholeNodes, on_whole_nodes

LABELS = {
    "shard": {str(shard) for shard in range(SHARDS)},
    "peer": {"n1", "n2", "n3"},
    "state": {"ACTIVE", "INACTIVE", "RECOVERING", "FAILED"},
    "operation": {"put", "get"},
    "consistency": {"strong", "eventual"},
    "outcome": {"OK", "NO_LEADER", "ok", "failed"},
    "stage": {"log_write"},
    "queue": {"proposals", "reads", "locks", "eventual", "forwards", "leader", "transactions", "proposed_bytes"},
    "limit": {"streams", "memory"},
    "node": {"n1"},
    "cluster": {"unit"},
    "transport": {"kvwire"},
}
"""Every value that a label may have here; of those that are not named, anything."""


@on_whole_nodes
async def test_metrics_of_a_leader_are_the_whole_catalogue(nodes: WholeNodes) -> None:
    """Every family of the catalogue has values, and nothing is shown that is not in it."""
    node = nodes.leader(0)
    await nodes.until(lambda: all(replica.staleness(nodes.loop.time()) is not None for replica in node.replicas.values()))
    shown = exposed(metrics_of(node).read())
    assert [name for name in shown if name.startswith("kvnode_")] == [family.name for family in FAMILIES]
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "python_gc_collections"} <= shown.keys()


@on_whole_nodes
async def test_metrics_follow_the_conventions_of_prometheus(nodes: WholeNodes) -> None:
    """Names in the project's space, base units at their ends, counters with _total, each with its words."""
    shown = exposed(metrics_of(nodes.leader(0)).read())
    for family in FAMILIES:
        metric = shown[family.name]
        assert (metric.type, metric.documentation, metric.unit) == (family.kind, family.help, family.unit)
        assert family.help.endswith(".")
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert not any(f"_{unit}_" in family.name for unit in UNITS), f"{family.name}: the unit comes last"
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
        names = {sample.name for sample in metric.samples}
        assert names == {family.name + suffix for suffix in suffixes.get(family.kind, ("",))}


@on_whole_nodes
async def test_metrics_labels_have_few_values_and_never_keys(nodes: WholeNodes) -> None:
    """What clients choose, keys above all, makes no label; so the number of series has a bound."""
    for number in range(40):
        await nodes.put(b"secret-%d" % number)
        await nodes.put(b"secret-%d" % number, consistency=EVENTUAL)
    before = exposed(metrics_of(nodes.nodes["n1"]).read())
    for family in before.values():
        for sample in family.samples:
            for label, shown in sample.labels.items():
                assert label not in LABELS or shown in LABELS[label], f"{sample.name}: {label}={shown}"
                assert "secret" not in shown
    count = sum(len(family.samples) for family in before.values())
    assert count < 500
    await nodes.put(b"secret-more")
    assert sum(len(family.samples) for family in exposed(metrics_of(nodes.nodes["n1"]).read()).values()) == count


@on_whole_nodes
async def test_metrics_histograms_are_cumulative_and_in_seconds(nodes: WholeNodes) -> None:
    """Buckets grow to +Inf, which is the count; the sum is in the family's unit."""
    shown = exposed(metrics_of(nodes.nodes["n1"]).read())
    for family in FAMILIES:
        if family.kind != "histogram":
            continue
        series: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        for sample in shown[family.name].samples:
            if sample.name.endswith("_bucket"):
                labels = tuple(sample.labels[label] for label in family.labels)
                series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        for labels, buckets in series.items():
            named = dict(zip(family.labels, labels, strict=True))
            assert [bound for bound, _ in buckets] == [*(b / family.divisor for b in family.bounds), math.inf]
            counts = [count for _, count in buckets]
            assert counts == sorted(counts)
            assert counts[-1] == value(shown, f"{family.name}_count", **named)
    put = {"operation": "put", "consistency": "strong"}
    assert value(shown, "kvnode_request_duration_seconds_sum", **put) == 0.0739
    within = {bound: value(shown, "kvnode_request_duration_seconds_bucket", le=bound, **put) for bound in ("0.0005", "0.001")}
    assert within == {"0.0005": 0, "0.001": 1}
    assert value(shown, "kvnode_request_duration_seconds_bucket", le="0.1", **put) == 3
    assert value(shown, "kvnode_log_batch_records_bucket", le="4.0") == 2
    assert value(shown, "kvnode_log_records_total") == 204


@on_whole_nodes
async def test_metrics_of_requests_say_how_they_ended(nodes: WholeNodes) -> None:
    """Counts by operation, consistency and outcome, as recorded."""
    shown = exposed(metrics_of(nodes.nodes["n1"]).read())
    put = {"operation": "put", "consistency": "strong"}
    assert value(shown, "kvnode_requests_total", outcome="OK", **put) == 2
    assert value(shown, "kvnode_requests_total", outcome="NO_LEADER", **put) == 1
    assert value(shown, "kvnode_request_stage_duration_seconds_count", stage="log_write", **put) == 3


@on_whole_nodes
async def test_metrics_of_a_consistency_nobody_knows_make_one_series(nodes: WholeNodes) -> None:
    """An enumeration is open: a client may send any number, and all of them count as none."""
    metrics, recorded = metrics_of(nodes.nodes["n1"]), Recorded()
    for invented in (0, 77, 78):
        recorded.outcomes["put", invented, "INVALID_ARGUMENT"] = 5  # type: ignore[index]
        recorded.latency["put", invented, ""] = histogram(10, 20)  # type: ignore[index]
    metrics.sources.recorder = recorded
    shown = exposed(metrics.read())
    assert value(shown, "kvnode_requests_total", consistency="unspecified") == 15
    assert value(shown, "kvnode_request_duration_seconds_count", consistency="unspecified") == 6
    assert recorded.latency["put", 0, ""].count == 2  # type: ignore[index]


@on_whole_nodes
async def test_metrics_without_a_recorder_leave_requests_out(nodes: WholeNodes) -> None:
    """What is not measured has no series, rather than a zero that would be wrong."""
    shown = exposed(Metrics(nodes.nodes["n1"]).read())
    assert not {"kvnode_requests", "kvnode_log_fsync_duration_seconds", "kvnode_wire_calls"} & shown.keys()
    assert "kvnode_shard_leader" in shown


@on_whole_nodes
async def test_metrics_of_replication_agree_over_the_nodes(nodes: WholeNodes) -> None:
    """One leader a shard, whose election is counted where it was won; a write moves every replica's commit index."""
    shown = {name: exposed(metrics_of(node).read()) for name, node in nodes.nodes.items()}
    for shard in map(str, range(SHARDS)):
        leads = {name for name in shown if value(shown[name], "kvnode_shard_leader", shard=shard)}
        assert leads == {nodes.leader(int(shard)).me.node}
        won = {name for name in shown if value(shown[name], "kvnode_elections_won_total", shard=shard)}
        assert leads <= won
        begun = {name: value(shown[name], "kvnode_elections_started_total", shard=shard) for name in won}
        assert all(begun[name] >= value(shown[name], "kvnode_elections_won_total", shard=shard) for name in won)
        assert all(value(one, "kvnode_shard_leader_known", shard=shard) == 1 for one in shown.values())
        assert all(value(one, "kvnode_shard_term", shard=shard) >= 1 for one in shown.values())
    shard = nodes.nodes["n1"].shard_map.shard_of(b"k")
    leader = nodes.leader(shard)
    before = value(exposed(metrics_of(leader).read()), "kvnode_shard_commit_index", shard=str(shard))
    await nodes.put(b"k")
    after = exposed(metrics_of(leader).read())
    assert value(after, "kvnode_shard_commit_index", shard=str(shard)) == before + 1
    assert value(after, "kvnode_shard_apply_lag_entries", shard=str(shard)) == 0
    assert value(after, "kvnode_shard_keys", shard=str(shard)) == 1
    assert value(after, "kvnode_memtable_size_bytes") > 0


@on_whole_nodes
async def test_metrics_of_a_node_without_its_peers_show_what_waits(nodes: WholeNodes) -> None:
    """Cut off, a leader's writes wait: the queue has their number, the followers lag by them, and its peers fall silent."""
    shard = nodes.nodes["n1"].shard_map.shard_of(b"k")
    leader = nodes.leader(shard)
    name, now = leader.me.node, nodes.loop.time()
    nodes.cut_off = {name}
    writes = [asyncio.ensure_future(nodes.put(b"k", at=name)) for _ in range(5)]
    await nodes.until(lambda: len(leader.replicas[shard].waiting) == 5)
    shown = exposed(metrics_of(leader).read())
    assert value(shown, "kvnode_queue_length", queue="proposals") == 5
    assert value(shown, "kvnode_queue_fill_ratio", queue="proposals") == 5 / limits.PROPOSALS_PER_SHARD_MAX
    assert value(shown, "kvnode_proposed_bytes") == leader.replicas[shard].waiting_size_bytes > 0
    peer = next(other for other in nodes.nodes if other != name)
    assert value(shown, "kvnode_replication_lag_entries", shard=str(shard), peer=peer) == 5
    await nodes.until(lambda: nodes.loop.time() > now + 4)
    shown = exposed(metrics_of(leader).read())
    assert value(shown, "kvnode_peer_silence_seconds", peer=peer) > 3
    assert value(shown, "kvnode_peer_phi", peer=peer) > 5
    assert value(shown, "kvnode_peer_suspected", peer=peer) == 1
    assert value(shown, "kvnode_peer_state", peer=peer, state="FAILED") == 1
    assert value(shown, "kvnode_peer_state", peer=peer, state="ACTIVE") == 0
    nodes.cut_off = set()
    await asyncio.gather(*writes, return_exceptions=True)


@on_whole_nodes
async def test_metrics_of_a_full_disk_say_so(nodes: WholeNodes) -> None:
    """Out of space, and therefore not ACTIVE."""
    node = nodes.nodes["n1"]
    assert value(exposed(metrics_of(node).read()), "kvnode_node_state", state="ACTIVE") == 1
    node.driver.set_out_of_space(True)
    shown = exposed(metrics_of(node).read())
    assert value(shown, "kvnode_out_of_space") == 1
    assert value(shown, "kvnode_node_state", state="ACTIVE") == 0
    assert value(shown, "kvnode_node_state", state="RECOVERING") == 1
    node.driver.set_out_of_space(False)


@on_whole_nodes
async def test_metrics_of_clocks_show_who_is_ahead(nodes: WholeNodes) -> None:
    """A stamp ahead moves the clock ahead of the machine's; one too far ahead is only counted."""
    node = nodes.nodes["n1"]
    wall_ms = node.ports.wall_ms()
    node.envelopes.observe(wall_ms + 300 << 16)
    node.envelopes.observe(wall_ms + 9_000 << 16)
    shown = exposed(metrics_of(node).read())
    assert value(shown, "kvnode_clock_ahead_seconds") == 0.3
    assert value(shown, "kvnode_clock_skew_max_seconds") == 9
    assert value(shown, "kvnode_clock_refusals_total") == 1
    assert wall_ms > EPOCH_MS


@on_whole_nodes
async def test_metrics_of_transactions_count_locks_where_the_shard_is_led(nodes: WholeNodes) -> None:
    """A transaction whose end does not come holds its locks at the leader, and ages there."""
    shard_map = nodes.nodes["n1"].shard_map
    keys = {shard_map.shard_of(key): key for key in (b"k%d" % number for number in range(40))}
    first, second = keys[0], keys[1]
    for node in nodes.nodes.values():
        node.two_phase.coordinators.resolve = lambda machine, actions: None  # type: ignore[method-assign]
    operations = [kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=key, value=b"v")) for key in (first, second)]
    await nodes.nodes["n1"].kv.dispatch(kv_pb2.TxnRequest(then=operations), RequestContext(nodes.loop.time() + 5.0))
    shown = {name: exposed(metrics_of(node).read()) for name, node in nodes.nodes.items()}
    held = {name: value(one, "kvnode_transactions_prepared") for name, one in shown.items()}
    assert sum(held.values()) == 1  # The anchor's own share has ended with its decision.
    holder = next(name for name, count in held.items() if count)
    assert value(shown[holder], "kvnode_locks") == 1
    started = nodes.loop.time()
    await nodes.until(lambda: nodes.loop.time() > started + 0.5)
    assert value(exposed(metrics_of(nodes.nodes[holder]).read()), "kvnode_transaction_oldest_seconds") > 0.4


@on_whole_nodes
async def test_metrics_of_flushes_and_superseded_writes_grow(nodes: WholeNodes) -> None:
    """A flush is counted with its duration; an eventual write that a strong one beats is superseded on every replica."""
    node = nodes.nodes["n1"]
    shard = node.shard_map.shard_of(b"k")
    await nodes.put(b"k", consistency=EVENTUAL)
    await nodes.put(b"k")
    await nodes.until(lambda: all(one.replicas[shard].machine.superseded_total == 1 for one in nodes.nodes.values()))
    assert await node.flusher.flush()
    shown = exposed(metrics_of(node).read())
    assert value(shown, "kvnode_superseded_writes_total", shard=str(shard)) == 1
    assert value(shown, "kvnode_flush_duration_seconds_count") == 1
    assert value(shown, "kvnode_memtable_size_bytes") == 0


@on_whole_nodes
async def test_metrics_of_snapshots_count_at_both_ends(nodes: WholeNodes) -> None:
    """A follower that was away for longer than the log remembers gets a snapshot: sent there, installed here."""
    shard = nodes.nodes["n1"].shard_map.shard_of(b"k")
    leader = nodes.leader(shard)
    away = next(node for node in nodes.nodes.values() if node is not leader)
    nodes.cut_off = {away.me.node}
    for _ in range(5):
        await nodes.put(b"k", at=leader.me.node)
    assert await leader.flusher.flush()
    nodes.cut_off = set()
    behind = leader.replicas[shard].applied
    await nodes.until(lambda: away.replicas[shard].applied >= behind and not away.replicas[shard].installing)
    await nodes.until(lambda: leader.snapshots.sent > 0)
    sent, installed = exposed(metrics_of(leader).read()), exposed(metrics_of(away).read())
    assert value(sent, "kvnode_snapshots_sent_total", outcome="ok") >= 1
    assert value(sent, "kvnode_snapshots_installed_total", outcome="ok") == 0
    assert value(installed, "kvnode_snapshots_installed_total", outcome="ok") >= 1
    assert value(installed, "kvnode_snapshots_sent_total", outcome="ok") == 0


@on_whole_nodes
async def test_readings_made_before_do_not_move_afterwards(nodes: WholeNodes) -> None:
    """What was read is a copy: text may be made of it later, and elsewhere."""
    metrics = metrics_of(nodes.nodes["n1"])
    recorded = metrics.sources.recorder
    assert recorded is not None
    readings = metrics.read()
    recorded.latency["get", EVENTUAL, ""].record(50)
    shown = exposed(readings)
    assert value(shown, "kvnode_request_duration_seconds_count", operation="get") == 1
    assert value(exposed(metrics.read()), "kvnode_request_duration_seconds_count", operation="get") == 2


@on_whole_nodes
async def test_metrics_as_text_are_openmetrics_of_the_moment_they_were_asked_for(nodes: WholeNodes) -> None:
    """What `Cluster.Stats` answers: the values as they were then, made into text by another thread."""
    metrics = metrics_of(nodes.nodes["n1"])
    making = asyncio.ensure_future(metrics.text())
    await asyncio.sleep(0)
    nodes.nodes["n1"].driver.set_out_of_space(True)
    text = await making
    nodes.nodes["n1"].driver.set_out_of_space(False)
    assert text.endswith("# EOF\n")
    assert value(parsed(text), "kvnode_out_of_space") == 0
    assert value(parsed(text), "kvnode_node_info", node="n1") == 1


def test_bounds_of_durations_grow_and_reach_ten_seconds() -> None:
    """From a tenth of a millisecond to a default deadline."""
    assert list(DURATION_BOUNDS_US) == sorted(set(DURATION_BOUNDS_US))
    assert (DURATION_BOUNDS_US[0], DURATION_BOUNDS_US[-1]) == (100, limits.REQUEST_TIMEOUT_S_DEFAULT * 1_000_000)
