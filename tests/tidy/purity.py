"""Finds what makes a state machine depend on more than its inputs: clocks, chance, the order of a set."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.source import imports

BANNED = frozenset(
    {
        *("asyncio", "concurrent", "multiprocessing", "threading", "uvloop"),
        *("datetime", "time", "signal", "select"),
        *("grpc", "socket", "ssl", "subprocess"),
        *("os", "pathlib", "sys", "tempfile"),
        *("secrets", "uuid"),
        *("logging", "opentelemetry", "structlog"),
    }
)
_SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
_ORDERED_BY = frozenset({"list", "tuple", "iter", "enumerate", "map", "zip", "filter", "reversed", "deque"})
"""Functions whose result has the order of what they are given; `sorted`, `len`, `any`, `sum` are fine."""


def banned_imports(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Imports that a pure module must not have, and uses of `random` other than `random.Random`."""
    for name, node in imports(tree):
        top, _, rest = name.partition(".")
        if top in BANNED:
            yield f"imports {name}", node
        if top == "random" and rest not in ("", "Random"):
            yield f"imports {name}: take a random.Random as an argument", node
    for node in ast.walk(tree):
        of_random = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
        if isinstance(node, ast.Attribute) and of_random and node.attr != "Random":
            yield f"calls random.{node.attr}: take a random.Random as an argument", node


def set_iterations(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Places where the order of a set decides what comes first. Names count as sets by their annotations and assignments."""
    names = _set_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension) and _is_set(node.iter, names):
            yield "iterates a set", node.iter
        elif isinstance(node, ast.Starred) and _is_set(node.value, names):
            yield "unpacks a set", node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERED_BY:
            if any(_is_set(argument, names) for argument in node.args):
                yield f"{node.func.id}() of a set", node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "join" and any(_is_set(argument, names) for argument in node.args):
                yield "joins a set", node
            if node.func.attr == "pop" and not node.args and _is_set(node.func.value, names):
                yield "pops from a set", node


def _set_names(tree: ast.Module) -> frozenset[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _annotates_set(node.annotation):
            found.add(_last_name(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and _annotates_set(node.annotation):
            found.add(node.arg)
        elif isinstance(node, ast.Assign) and _is_set(node.value, frozenset()):
            found.update(map(_last_name, node.targets))
    return frozenset(found - {""})


def _annotates_set(annotation: ast.expr) -> bool:
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return _last_name(base) in ("set", "frozenset", "AbstractSet", "MutableSet", "Set")


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_set(node: ast.expr, names: frozenset[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in ("set", "frozenset")
        return isinstance(node.func, ast.Attribute) and node.func.attr in _SET_METHODS and _is_set(node.func.value, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, _SET_OPERATORS):
        return any(_is_set(side, names) or _is_keys(side) for side in (node.left, node.right))
    if isinstance(node, ast.IfExp):
        return _is_set(node.body, names) or _is_set(node.orelse, names)
    return _last_name(node) in names


def _is_keys(node: ast.expr) -> bool:
    """`d.keys()`: in order by itself, and a set as soon as an operator is applied."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"
