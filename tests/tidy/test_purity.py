"""The state machines depend on nothing but what they are told."""

from __future__ import annotations

import ast

import pytest

from tests.tidy.purity import banned_imports, set_iterations
from tests.tidy.source import imports, parse, place, python_files

PURE = ("kvnode/protocol", "kvnode/shard")


def test_pure_modules_import_nothing_that_waits_or_guesses() -> None:
    """No clock, no chance of their own, no I/O under protocol/ and shard/: the simulator owns all three."""
    found = [f"{place(file, node)} {what}" for file in python_files(*PURE) for what, node in banned_imports(parse(file))]
    assert not found, "\n".join(found)


def test_pure_modules_iterate_no_set() -> None:
    """The order of a set changes from process to process, so that the same seed would give another trace."""
    found = [f"{place(file, node)} {what}" for file in python_files(*PURE) for what, node in set_iterations(parse(file))]
    assert not found, "\n".join(found)


def test_pure_modules_import_only_what_is_below_them() -> None:
    """protocol/ knows nothing of shards, shard/ nothing of what waits, stores or serves."""
    shared = ("types", "errors", "limits", "invariant")
    allowed = {"kvnode/protocol": ("protocol", *shared), "kvnode/shard": ("shard", "protocol", *shared)}
    found = []
    for directory, rooms in allowed.items():
        for file in python_files(directory):
            for name, node in imports(parse(file)):
                parts = name.split(".")
                if parts[0] == "kvnode" and parts[1] not in rooms:
                    found.append(f"{place(file, node)} imports {name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "findings"),
    [
        ("import time", 1),
        ("from asyncio import sleep", 1),
        ("import random\nrandom.random()", 1),
        ("from random import choice", 1),
        ("import random\ndef f(rng: random.Random): rng.random()", 0),
        ("import math", 0),
    ],
)
def test_banned_imports_in_an_example_are_found(source: str, findings: int) -> None:
    """The check itself sees what it is for, and nothing else."""
    assert len(list(banned_imports(ast.parse(source)))) == findings


@pytest.mark.parametrize(
    ("source", "findings"),
    [
        ("for x in {1, 2}: pass", 1),
        ("for x in set(a): pass", 1),
        ("[x for x in a.keys() - b]", 1),
        ("def f(a: set[int]): return list(a)", 1),
        ("class A:\n  def f(self):\n    self.s: set[int] = set()\n    self.s.pop()", 1),
        ("def f(a: frozenset[int]): return [*a]", 1),
        ("def f(a: set[int]): return sorted(a)", 0),
        ("for x in {1: 2}: pass", 0),
        ("for x in {1: 2}.keys(): pass", 0),
        ("def f(a: set[int], x: int): return x in a", 0),
    ],
)
def test_set_iterations_in_an_example_are_found(source: str, findings: int) -> None:
    """The check itself sees what it is for, and nothing else."""
    assert len(list(set_iterations(ast.parse(source)))) == findings
