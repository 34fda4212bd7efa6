"""The small languages of the options, and what contradicts what."""

from __future__ import annotations

import pytest

from kvctl.bench.plan import check, parse_duration, parse_mix, parse_sizes, share
from kvctl.failures import Failure
from tests.unit.kvctl.bench.plans import plan
from tests.unit.kvctl.conftest import Run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("10", 10.0), ("500ms", 0.5), ("1.5min", 90.0), ("2m", 120.0), (" 1 h ", 3600.0), (".5s", 0.5)],
)
def test_durations_with_and_without_units_are_seconds(text: str, seconds: float) -> None:
    """What people write."""
    assert parse_duration(text, "--duration") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "10 seconds", "1e3", "nan", "10s5"])
def test_durations_that_are_none_are_refused_with_the_option(text: str) -> None:
    """The message names the option and has an example."""
    with pytest.raises(Failure) as failed:
        parse_duration(text, "--warmup")
    assert "--warmup" in failed.value.message
    assert "--warmup 10s" in failed.value.hint


def test_mix_of_any_weights_becomes_shares_in_the_order_of_the_table() -> None:
    """Percentages need not add up to 100; other commands' names are understood; a weight may be left out."""
    assert parse_mix("write=1,read=3") == {"read": 0.75, "write": 0.25}
    assert list(parse_mix("range, put=1, get=1")) == ["read", "write", "range"]
    assert parse_mix("read=1,txn=0") == {"read": 1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scan=1", "'scan' is none of read, write, delete, cas, txn, range"),
        ("read=1,get=2", "names read twice"),
        ("read=-1", "no share"),
        ("read=inf", "no share"),
        ("read=nan", "no share"),
        ("read=many", "no share"),
        ("read=0", "all shares are 0"),
    ],
)
def test_mix_with_a_mistake_is_refused_with_the_part(text: str, words: str) -> None:
    """The message says which part."""
    with pytest.raises(Failure) as failed:
        parse_mix(text)
    assert words in failed.value.message


def test_value_sizes_are_one_number_or_two_bounds() -> None:
    """And nothing else."""
    assert parse_sizes("100") == (100, 100)
    assert parse_sizes("64 - 4096") == (64, 4096)
    assert parse_sizes("0") == (0, 0)
    for text, words in (("4096-64", "4096 is more than 64"), ("1-", "neither"), ("-5", "neither"), ("1048577", "at most")):
        with pytest.raises(Failure) as failed:
            parse_sizes(text)
        assert words in failed.value.message


def test_shares_of_processes_add_up_to_the_whole() -> None:
    """As equal as can be."""
    for total in (0, 1, 7, 100):
        shares = [share(total, 4, index) for index in range(4)]
        assert sum(shares) == total
        assert max(shares) - min(shares) <= 1


def test_keys_of_processes_are_all_keys_once() -> None:
    """Nobody's key is loaded twice, or not at all."""
    shared = plan(keys=10, processes=3)
    assert sorted(number for index in range(3) for number in shared.keys_of(index)) == list(range(10))
    assert shared.key(7) == b"bench/00000007"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prefix": b""}, "--prefix"),
        ({"prefix": b"x" * 393}, "--prefix has 393 bytes"),
        ({"duration_s": 0.0, "operations": None}, "--duration"),
        ({"interval_s": 0.0}, "--interval"),
        ({"concurrency": 2, "processes": 3}, "--concurrency 2 is less than --processes 3"),
        ({"keys": 2, "processes": 3}, "--keys 2 is less"),
        ({"distribution": "zipf", "zipf_theta": 1.0}, "--zipf-theta 1 is not between 0 and 1"),
        ({"mix": {"txn": 1.0}, "keys": 1}, "two keys"),
        ({"acks": 2}, "--acks"),
        ({"max_staleness_s": 1.0}, "--max-staleness"),
    ],
)
def test_plan_with_a_contradiction_is_refused_by_its_option(changes: dict[str, object], words: str) -> None:
    """Before anything is started."""
    check(plan())
    with pytest.raises(Failure) as failed:
        check(plan(**changes))
    assert words in failed.value.message


def test_bench_without_a_cluster_says_so_at_once(run: Run) -> None:
    """No process is started for a cluster that is not there; the exit code is that of other commands."""
    result = run("bench", "-e", "127.0.0.1:1", "-o", "json")
    assert result.code == 4
    assert result.error["reason"] == "CONNECT_FAILED"
    assert "kvctl cluster up" in result.error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--duration", "10s", "--operations", "5"),
        ("--timeline",),
        ("--duration", "soon"),
        ("--mix", "read=x"),
        ("--acks", "2"),
        ("--sample-ratio", "0.5"),
    ],
)
def test_bench_with_a_wrong_command_line_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    """Found before the cluster is asked."""
    result = run("bench", "-e", "127.0.0.1:1", *arguments)
    assert result.code == 2
    assert "error:" in result.err


def test_help_does_not_load_what_only_a_run_needs() -> None:
    """`kvctl --help` stays quick: histograms, rich and the SDK come with the run."""
    import subprocess
    import sys

    code = "import sys, kvctl.app; print([n for n in ('hdrh', 'kvclient', 'grpc', 'kvctl.bench.plan') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
