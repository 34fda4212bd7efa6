"""What the Grafana dashboard shows: its panels, section by section. `tools/dashboard.py` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HERE = 'job="$job", instance=~"$instance"'
KV = f'{HERE}, operation=~"put|get|delete|range|txn"'
WRITES = f'{HERE}, operation=~"put|delete|txn", consistency="strong"'
READS = f'{HERE}, operation=~"get|range", consistency="strong"'
FAILURES = "CORRUPT|DEADLINE_EXCEEDED|INTERNAL|NO_LEADER|NO_SPACE|OUTCOME_UNKNOWN|OVERLOADED|UNAVAILABLE"
KV_FAILED, KV_NOT_OK = f'{KV}, outcome=~"{FAILURES}"', f'{KV}, outcome!="OK"'


class Query(NamedTuple):
    """One expression, and the name of its lines."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """One picture."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    thresholds: Sequence[tuple[str, float | None]] = ()
    """Colour -> from which value on; the first from None."""


def rate(metric: str, labels: str = HERE) -> str:
    """How much a counter grows in a second."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(share: float, metric: str, labels: str = HERE, by: str = "") -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, sum by (le{by and ', ' + by}) ({rate(metric + '_bucket', labels)}))"


GOOD_BAD = (("green", None), ("red", 1))
SECTIONS: dict[str, Sequence[Panel]] = {
    "At a glance": (
        Panel("Nodes up", "Nodes that Prometheus can scrape.", "none", [Query('sum(up{job="$job"})', "")], "stat", 4),
        Panel(
            "Shards without a leader",
            "Strong requests to them fail.",
            "none",
            [Query('count(sum by (shard) (kvnode_shard_leader{job="$job"}) < 1) or vector(0)', "")],
            "stat",
            4,
            thresholds=GOOD_BAD,
        ),
        Panel(
            "Requests",
            "Puts, gets, deletes, ranges and transactions a second, those in batches too.",
            "reqps",
            [Query(f"sum({rate('kvnode_requests_total', KV)})", "")],
            "stat",
            4,
        ),
        Panel(
            "Failed",
            "Share of requests that failed for want of the cluster; lost races and wrong requests are answers.",
            "percentunit",
            [
                Query(
                    f"sum({rate('kvnode_requests_total', KV_FAILED)}) / sum({rate('kvnode_requests_total', KV)}) or vector(0)",
                    "",
                )
            ],
            "stat",
            4,
            thresholds=(("green", None), ("orange", 0.001), ("red", 0.01)),
        ),
        Panel(
            "Strong writes, p99",
            "99 of 100 are answered within this.",
            "s",
            [Query(quantile(0.99, "kvnode_request_duration_seconds", WRITES), "")],
            "stat",
            4,
        ),
        Panel("Least disk free", "Of all nodes.", "bytes", [Query(f"min(kvnode_disk_free_bytes{{{HERE}}})", "")], "stat", 4),
    ),
    "Traffic and errors": (
        Panel(
            "Requests by operation",
            "A second.",
            "reqps",
            [Query(f"sum by (operation, consistency) ({rate('kvnode_requests_total', KV)})", "{{operation}} {{consistency}}")],
            stacked=True,
        ),
        Panel(
            "Errors by outcome",
            "A second; COMPARE_FAILED and CONFLICT are answers.",
            "reqps",
            [Query(f"sum by (outcome) ({rate('kvnode_requests_total', KV_NOT_OK)})", "{{outcome}}")],
            stacked=True,
        ),
        Panel(
            "In flight",
            "Requests that are not answered yet.",
            "none",
            [Query(f"kvnode_requests_in_flight{{{HERE}}}", "{{instance}}")],
        ),
        Panel(
            "Fullest queues",
            "At 100 % requests are refused as OVERLOADED.",
            "percentunit",
            [Query(f"max by (queue) (kvnode_queue_fill_ratio{{{HERE}}})", "{{queue}}")],
        ),
        Panel(
            "Connections and calls",
            "Of clients and peers.",
            "none",
            [
                Query(f"kvnode_wire_connections{{{HERE}}}", "{{instance}} connections"),
                Query(f"kvnode_wire_calls_in_flight{{{HERE}}}", "{{instance}} calls"),
            ],
        ),
        Panel(
            "Refused by kvwire",
            "Calls and connections a second that ran into a limit.",
            "reqps",
            [Query(f"sum by (instance, limit) ({rate('kvnode_wire_refusals_total')}) > 0", "{{instance}} {{limit}}")],
        ),
    ),
    "Latency": (
        Panel(
            "Strong writes",
            "From arrival at a node to its answer.",
            "s",
            [
                Query(quantile(share, "kvnode_request_duration_seconds", WRITES), name)
                for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"))
            ],
        ),
        Panel(
            "Strong reads",
            "From arrival at a node to its answer.",
            "s",
            [
                Query(quantile(share, "kvnode_request_duration_seconds", READS), name)
                for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"))
            ],
        ),
        Panel(
            "p99 by operation",
            "All levels of consistency.",
            "s",
            [
                Query(
                    quantile(0.99, "kvnode_request_duration_seconds", KV, "operation, consistency"),
                    "{{operation}} {{consistency}}",
                )
            ],
        ),
        Panel(
            "Where strong writes spend their time",
            "Average of each stage; together the average of the whole.",
            "s",
            [
                Query(
                    f"sum by (stage) ({rate('kvnode_request_stage_duration_seconds_sum', WRITES)}) / scalar(sum("
                    f"{rate('kvnode_request_duration_seconds_count', WRITES)}))",
                    "{{stage}}",
                )
            ],
            width=12,
            stacked=True,
        ),
        Panel(
            "Stages of strong writes, p99",
            "The stage that is slow when writes are slow. More: kvctl trace explain.",
            "s",
            [Query(quantile(0.99, "kvnode_request_stage_duration_seconds", WRITES, "stage"), "{{stage}}")],
            width=12,
        ),
    ),
    "The log": (
        Panel(
            "fsync",
            "Each strong write waits for two of them, on different nodes.",
            "s",
            [
                Query(quantile(0.5, "kvnode_log_fsync_duration_seconds", by="instance"), "{{instance}} p50"),
                Query(quantile(0.99, "kvnode_log_fsync_duration_seconds", by="instance"), "{{instance}} p99"),
            ],
        ),
        Panel("Group commits", "A second.", "ops", [Query(rate("kvnode_log_batches_total"), "{{instance}}")]),
        Panel(
            "Records of a group commit",
            "On average: the more at once, the more writes for one fsync.",
            "none",
            [Query(f"{rate('kvnode_log_batch_records_sum')} / {rate('kvnode_log_batch_records_count')}", "{{instance}}")],
        ),
    ),
    "Replication": (
        Panel(
            "Leaderships",
            "Shards that each node leads.",
            "none",
            [Query(f"sum by (instance) (kvnode_shard_leader{{{HERE}}})", "{{instance}}")],
            stacked=True,
        ),
        Panel(
            "Elections won",
            "Each is a change of leadership.",
            "none",
            [Query(f"sum by (instance) (increase(kvnode_elections_won_total{{{HERE}}}[$__rate_interval]))", "{{instance}}")],
        ),
        Panel(
            "Followers' lag",
            "Log entries that a follower is not known to hold; the worst shard.",
            "none",
            [Query(f"max by (peer) (kvnode_replication_lag_entries{{{HERE}}})", "{{peer}}")],
        ),
        Panel(
            "Staleness",
            "How far a node's worst replica may be behind its leader.",
            "s",
            [Query(f"max by (instance) (kvnode_shard_staleness_seconds{{{HERE}}})", "{{instance}}")],
        ),
        Panel(
            "Suspicion (phi)",
            "How each node sees its peers: at 5 others are asked, from 8 on it is FAILED.",
            "none",
            [Query(f"kvnode_peer_phi{{{HERE}}}", "{{peer}} as seen by {{instance}}")],
            thresholds=(("green", None), ("orange", 5), ("red", 8)),
        ),
        Panel(
            "Clocks",
            "How far somebody's clock is ahead of this node's.",
            "s",
            [Query(f"kvnode_clock_ahead_seconds{{{HERE}}}", "{{instance}}")],
        ),
        Panel(
            "Eventual writes",
            "Those that wait for their place in the log, and those that took no effect, a second.",
            "none",
            [
                Query(f'sum by (instance) (kvnode_queue_length{{{HERE}, queue="eventual"}})', "{{instance}} wait"),
                Query(f"sum(max by (shard) ({rate('kvnode_superseded_writes_total')}))", "superseded"),
            ],
        ),
        Panel(
            "Transactions that hold locks",
            "In the shards that a node leads; and for how long the oldest has.",
            "none",
            [
                Query(f"kvnode_transactions_prepared{{{HERE}}}", "{{instance}}"),
                Query(f"max(kvnode_transaction_oldest_seconds{{{HERE}}})", "oldest, s"),
            ],
        ),
        Panel(
            "Snapshots",
            "Sent and installed.",
            "none",
            [
                Query(
                    f"sum by (outcome) (increase(kvnode_snapshots_sent_total{{{HERE}}}[$__rate_interval]))", "sent, {{outcome}}"
                ),
                Query(
                    f"sum by (outcome) (increase(kvnode_snapshots_installed_total{{{HERE}}}[$__rate_interval]))",
                    "installed, {{outcome}}",
                ),
            ],
        ),
    ),
    "Process and disk": (
        Panel(
            "Event loop lag",
            "How late the node does what is due: everything waits so long.",
            "s",
            [
                Query(quantile(0.99, "kvnode_event_loop_lag_seconds", by="instance"), "{{instance}} p99"),
                Query(f"kvnode_event_loop_lag_recent_seconds{{{HERE}}}", "{{instance}} longest"),
            ],
        ),
        Panel(
            "Garbage collection",
            "Time share of full collections.",
            "percentunit",
            [Query(rate("kvnode_gc_pause_seconds_sum"), "{{instance}}")],
        ),
        Panel("Processor", "1 is one core.", "none", [Query(rate("process_cpu_seconds_total"), "{{instance}}")]),
        Panel("Memory", "Resident.", "bytes", [Query(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")]),
        Panel(
            "Disk free",
            "What the file system, or the quota, leaves.",
            "bytes",
            [Query(f"kvnode_disk_free_bytes{{{HERE}}}", "{{instance}}")],
        ),
        Panel(
            "Log and store",
            "On disk.",
            "bytes",
            [
                Query(f"kvnode_log_size_bytes{{{HERE}}}", "{{instance}} log"),
                Query(f"kvnode_store_size_bytes{{{HERE}}}", "{{instance}} store"),
            ],
        ),
    ),
}
