"""Plans for tests: small, and complete."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from kvctl.bench.plan import Plan

SMALL = Plan(
    endpoints=("127.0.0.1:1",),
    transport="kvwire",
    timeout_s=5.0,
    rate=None,
    arrivals="poisson",
    concurrency=4,
    duration_s=math.inf,
    operations=100,
    warmup_s=0.0,
    processes=1,
    clients=1,
    mix={"read": 0.5, "write": 0.5},
    keys=100,
    distribution="uniform",
    zipf_theta=0.99,
    value_size_bytes_min=10,
    value_size_bytes_max=20,
    read_consistency="strong",
    max_staleness_s=None,
    write_consistency="strong",
    acks=None,
    prefix=b"bench/",
    load=False,
    clean=False,
    seed=1,
    interval_s=1.0,
    traces="",
    sample_ratio=0.01,
)


def plan(**changes: Any) -> Plan:
    """A small plan with some changes."""
    return replace(SMALL, **changes)
