"""What one run does: the same for all of its processes, and complete, so that it can be shown and repeated.

Owns the small languages of the options (durations, mixes, sizes). Decides nothing while the load runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kvctl.failures import usage

KINDS = ("read", "write", "delete", "cas", "txn", "range")
"""What an operation can be, in the order of the table."""
ALIASES = {"get": "read", "put": "write", "del": "delete"}
"""What the SDK and the other commands call them."""
VALUE_SIZE_BYTES_MAX = 1 << 20
KEY_SIZE_BYTES_MAX = 400
NUMBER_DIGITS = 8
INTERVAL_S_MIN = 0.05
_UNITS_S = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(|ms|s|m|min|h)")


@dataclass(frozen=True)
class Plan:
    """One run. Seconds and bytes; rates, callers and operations are for all processes together."""

    endpoints: tuple[str, ...]
    transport: str
    timeout_s: float
    """Of one operation, all attempts together."""
    rate: float | None
    """Operations due a second: an open loop. None: a closed loop."""
    arrivals: str
    """ "poisson" or "even": the gaps of an open loop."""
    concurrency: int
    """The most operations under way at once; in a closed loop always so many."""
    duration_s: float
    """Infinite where `operations` ends the run."""
    operations: int | None
    warmup_s: float
    processes: int
    clients: int
    """SDK clients in each process; each has a connection to every node."""
    mix: Mapping[str, float]
    """Shares of the kinds of operations; their sum is 1."""
    keys: int
    distribution: str
    zipf_theta: float
    value_size_bytes_min: int
    value_size_bytes_max: int
    read_consistency: str
    max_staleness_s: float | None
    write_consistency: str
    acks: int | None
    prefix: bytes
    load: bool
    clean: bool
    seed: int
    interval_s: float
    traces: str
    """The file of the spans; "": none."""
    sample_ratio: float
    """The share of the operations that have spans."""

    @property
    def uri(self) -> str:
        """The cluster's address for the SDK."""
        return f"kv://{','.join(self.endpoints)}?timeout={self.timeout_s}&transport={self.transport}"

    @property
    def measures(self) -> bool:
        """Whether there is a load at all: with 0 operations keys are only written, or deleted."""
        return self.operations != 0

    def callers_of(self, index: int) -> int:
        """How many of the operations under way belong to a process."""
        return share(self.concurrency, self.processes, index)

    def operations_of(self, index: int) -> int | None:
        """How many operations a process does; None: until the time is over."""
        return None if self.operations is None else share(self.operations, self.processes, index)

    def keys_of(self, index: int) -> range:
        """The numbers of the keys that a process loads and deletes: every key belongs to exactly one."""
        return range(index, self.keys, self.processes)

    def key(self, number: int) -> bytes:
        """A key's name."""
        return b"%b%08d" % (self.prefix, number)  # NUMBER_DIGITS


def share(total: int, parts: int, index: int) -> int:
    """The size of one of so many parts that are as equal as can be."""
    return total // parts + (index < total % parts)


def parse_duration(text: str, option: str) -> float:
    """Seconds, from "10s", "500ms", "1.5min", "2h" or a plain number. Raises a usage failure."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise usage(f"{option}: {text!r} is no duration", f"for example {option} 10s, 500ms or 2min")
    return float(found[1]) * _UNITS_S[found[2]]


def parse_mix(text: str) -> dict[str, float]:
    """Shares from "read=90,write=10", whatever their sum. Raises a usage failure."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        kind = ALIASES.get(name.strip(), name.strip())
        if kind not in KINDS:
            raise usage(f"--mix: {name.strip()!r} is none of {', '.join(KINDS)}", "for example --mix read=90,write=10")
        if kind in weights:
            raise usage(f"--mix names {kind} twice")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise usage(f"--mix: {part.strip()!r} has no share that is a number", "for example --mix read=90,write=10")
        weights[kind] = weight
    total = sum(weights.values())
    if not total:
        raise usage("--mix: all shares are 0", "for example --mix read=90,write=10")
    return {kind: weights[kind] / total for kind in KINDS if weights.get(kind)}


def parse_sizes(text: str) -> tuple[int, int]:
    """Bytes from "100", or the bounds of "64-4096". Raises a usage failure."""
    low, dash, high = text.replace(" ", "").partition("-")
    ends = (low, high if dash else low)
    if not all(end.isascii() and end.isdigit() and len(end) < 9 for end in ends):
        raise usage(f"--value-size: {text!r} is neither a number of bytes nor two", "for example --value-size 100 or 64-4096")
    least, most = (int(end) for end in ends)
    if least > most:
        raise usage(f"--value-size: {least} is more than {most}", f"--value-size {most}-{least}")
    if most > VALUE_SIZE_BYTES_MAX:
        raise usage(f"--value-size: values have at most {VALUE_SIZE_BYTES_MAX} bytes (1 MiB)")
    return least, most


def check(plan: Plan) -> None:
    """Whether the parts go together. Raises a usage failure."""
    if not plan.prefix or len(plan.prefix) + NUMBER_DIGITS > KEY_SIZE_BYTES_MAX:
        raise usage(f"--prefix has {len(plan.prefix)} bytes; it needs 1 to {KEY_SIZE_BYTES_MAX - NUMBER_DIGITS}")
    if plan.duration_s <= 0 or plan.interval_s < INTERVAL_S_MIN:
        raise usage(f"--duration must be more than 0, --interval at least {INTERVAL_S_MIN:g} s")
    for name, total in (("--concurrency", plan.concurrency), ("--keys", plan.keys)):
        if total < plan.processes:
            raise usage(f"{name} {total} is less than --processes {plan.processes}: each of them needs one")
    if plan.distribution in ("zipf", "latest") and not 0 < plan.zipf_theta < 1:
        raise usage(f"--zipf-theta {plan.zipf_theta:g} is not between 0 and 1", "0.99 is what YCSB has")
    if "txn" in plan.mix and plan.keys < 2 * plan.processes:
        raise usage("--mix: a txn writes two keys", f"give --keys {2 * plan.processes} or more")
    if plan.acks is not None and plan.write_consistency != "eventual":
        raise usage("--acks goes with --write-consistency eventual", "strong writes wait for a majority")
    if plan.max_staleness_s is not None and plan.read_consistency != "bounded":
        raise usage("--max-staleness goes with --read-consistency bounded")
