"""The nemesis in small: real nodes, a few faults, and a judge that accepts what happened and refuses what did not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.nemesis import check
from tests.nemesis.faults import IsolateLeader, Kill, Pause, Restart
from tests.nemesis.judge import WORKLOADS
from tests.nemesis.run import Plan, run
from tests.nemesis.summary import faults, outcomes, summary

SECONDS = 6.0
KINDS = (Kill.kind, Pause.kind, Restart.kind, IsolateLeader.kind)


async def test_nemesis_short_run_finds_nothing_broken_and_a_falsified_read_is_found(tmp_path: Path) -> None:
    """Faults hit, every workload gets work done, the judge finds nothing; then one read of the stored history is changed, and
    the judge of that file finds it."""
    plan = Plan(SECONDS, "smoke", tmp_path, faults=KINDS)
    history, failures = await run(plan)
    assert not failures, "\n".join([*map(str, failures), summary(history)])
    assert sum(faults(history).values()) >= 3, summary(history)
    done = outcomes(history.ops)
    assert {name for name, counts in done.items() if counts["ok"] > 20} == set(WORKLOADS), summary(history)
    assert check.main([str(plan.history_path)]) == 0
    assert check.main([str(_falsified(plan.history_path))]) == 1


def _falsified(path: Path) -> Path:
    """The same history, but one strong read shows what an acknowledged write had replaced before the read began."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ops = [row for row in rows if row.get("workload") == "register" and row["outcome"] == "ok"]
    old, read = next(
        (old, read)
        for old in ops
        for new in ops
        for read in ops
        if old["op"] == new["op"] == "put" and read["op"] == "get" and read["found"]
        if old["key"] == new["key"] == read["key"] and old["answered"] < new["invoked"] and new["answered"] < read["invoked"]
    )
    read |= {"value": old["value"], "revision": old["revision"]}
    copy = path.with_name("falsified.jsonl")
    copy.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return copy
