"""The file of `kvctl txn run`: a transaction that people can read and write.

    # sell the last one
    if    value stock/1 = "3"
    then  put stock/1 2
    else  get stock/1

Owns the format: a line is a comparison or an operation of a branch, its words are quoted as in a shell. Pure: no files, no
cluster. What the transaction may contain beyond its form is the cluster's to say, except where a line can be named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvctl.failures import Failure, usage
from kvctl.output import Encoding

KEY_SIZE_BYTES_MAX = 400
REVISION_MAX = 2**64 - 1
RANGE_LIMIT_MAX = 1_000
OPERATORS = ("=", "!=", "<", ">")
CONDITIONS = {
    "value": "if value KEY =|!=|<|> VALUE",
    "revision": "if revision KEY =|!=|<|> NUMBER",
    "exists": "if exists KEY",
    "absent": "if absent KEY",
}
OPERATIONS = {
    "put": "put KEY VALUE",
    "get": "get KEY",
    "delete": "delete KEY",
    "range": "range PREFIX [limit NUMBER] [keys-only]",
}
"""What may follow `then` and `else`."""

_QUOTED = r"""'([^']*+)'|"((?:[^"\\]++|\\.)*+)"|\\(.)"""
_TOKEN = re.compile(rf"""(?P<comment>\#.*)|(?P<word>(?:[^\s'"\\]++|{_QUOTED})++)|(?P<unfinished>['"\\])""", re.ASCII)
"""What a line consists of, between its blanks."""


class Comparison(NamedTuple):
    """An `if` line."""

    subject: str
    """A key of CONDITIONS."""
    key: bytes
    operator: str = ""
    """Of value and revision: one of OPERATORS."""
    operand: bytes | int = b""


class Operation(NamedTuple):
    """A `then` or `else` line."""

    verb: str
    """A key of OPERATIONS."""
    key: bytes
    """Of a range: the prefix."""
    value: bytes = b""
    limit: int | None = None
    keys_only: bool = False


@dataclass(frozen=True)
class Transaction:
    """A file's contents, in the order of its lines."""

    comparisons: list[Comparison] = field(default_factory=list)
    then: list[Operation] = field(default_factory=list)
    otherwise: list[Operation] = field(default_factory=list)


def parse_transaction(text: str, encoding: Encoding) -> Transaction:
    """Read a transaction; keys and values are in `encoding`. Raises a usage failure that names the line and the form it should
    have.
    """
    transaction = Transaction()
    written: dict[tuple[str, bytes], int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        parser = _Line(number, encoding)
        words = parser.words(line)
        if not words:
            continue
        clause, *rest = words
        if clause == "if":
            transaction.comparisons.append(parser.comparison(rest))
        elif clause in ("then", "else"):
            operation = parser.operation(clause, rest)
            if operation.verb in ("put", "delete"):
                first = written.setdefault((clause, operation.key), number)
                if first != number:
                    raise parser.wrong(
                        f"this branch writes key '{encoding.encode(operation.key)}' twice, first in line {first}",
                        "a branch writes each key at most once",
                    )
            (transaction.then if clause == "then" else transaction.otherwise).append(operation)
        else:
            raise parser.unknown(clause, ("if", "then", "else"), "a line begins with if, then or else; # begins a comment")
    if not (transaction.comparisons or transaction.then or transaction.otherwise):
        raise usage("the transaction is empty", "for example: then put KEY VALUE; see kvctl txn run --help")
    return transaction


class _Line:
    """One line of the file; knows its number, for errors."""

    def __init__(self, number: int, encoding: Encoding) -> None:
        self.number, self.encoding = number, encoding

    def wrong(self, message: str, hint: str) -> Failure:
        """What is wrong with this line, and what would be right."""
        return usage(f"line {self.number}: {message}", hint)

    def unknown(self, word: str, known: Sequence[str], hint: str) -> Failure:
        """A word that is none of those that may stand there."""
        near = difflib.get_close_matches(word, known, 1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        return self.wrong(f"{word!r} is none of {', '.join(known)}{suggestion}", hint)

    def words(self, line: str) -> list[str]:
        """Split a line as a shell does; `#` at the beginning of a word makes the rest a comment."""
        words: list[str] = []
        for token in _TOKEN.finditer(line):
            if token.lastgroup == "comment":
                break
            if token[0] == "\\":
                raise self.wrong("a backslash at the end of a line quotes nothing", "a line is complete in itself")
            if token.lastgroup == "unfinished":
                raise self.wrong(f"the quote {token[0]} is not closed", "values of several lines: all as --hex or --base64")
            words.append(re.sub(_QUOTED, _unquoted, token[0]))
        return words

    def comparison(self, words: Sequence[str]) -> Comparison:
        """What follows `if`."""
        subject = words[0] if words else ""
        if subject not in CONDITIONS:
            raise self.choose("if", subject, list(CONDITIONS), "; ".join(CONDITIONS.values()))
        form = CONDITIONS[subject]
        if subject in ("exists", "absent"):
            (key,) = self.exactly(1, f"if {subject}", words[1:], form)
            return Comparison(subject, self.key(key))
        key, operator, operand = self.exactly(3, f"if {subject}", words[1:], form)
        if operator not in OPERATORS:
            raise self.unknown(operator, OPERATORS, form)
        if subject == "value":
            return Comparison(subject, self.key(key), operator, self.bytes(operand, "VALUE"))
        return Comparison(subject, self.key(key), operator, self.number_between(operand, 0, REVISION_MAX, form))

    def operation(self, clause: str, words: Sequence[str]) -> Operation:
        """What follows `then` and `else`."""
        verb = words[0] if words else ""
        if verb not in OPERATIONS:
            raise self.choose(clause, verb, list(OPERATIONS), "; ".join(f"{clause} {form}" for form in OPERATIONS.values()))
        form = f"{clause} {OPERATIONS[verb]}"
        if verb == "put":
            key, value = self.exactly(2, f"{clause} put", words[1:], form)
            return Operation(verb, self.key(key), self.bytes(value, "VALUE"))
        if verb == "range":
            return self.range(clause, words[1:], form)
        (key,) = self.exactly(1, f"{clause} {verb}", words[1:], form)
        return Operation(verb, self.key(key))

    def range(self, clause: str, words: Sequence[str], form: str) -> Operation:
        """What follows `range`."""
        if not words:
            raise self.wrong(f"{clause} range needs a prefix", form)
        limit, keys_only = None, False
        options = iter(words[1:])
        for option in options:
            if option == "keys-only":
                keys_only = True
            elif option == "limit":
                limit = self.number_between(next(options, ""), 1, RANGE_LIMIT_MAX, form)
            else:
                raise self.unknown(option, ("limit", "keys-only"), form)
        return Operation("range", self.key(words[0], "PREFIX"), limit=limit, keys_only=keys_only)

    def choose(self, clause: str, word: str, known: Sequence[str], hint: str) -> Failure:
        """The second word of a line is missing, or none of those that may stand there."""
        return self.unknown(word, known, hint) if word else self.wrong(f"nothing follows {clause}", hint)

    def exactly(self, count: int, what: str, words: Sequence[str], form: str) -> Sequence[str]:
        """So many words and no other number."""
        if len(words) != count:
            raise self.wrong(
                f"{what} takes {count} word{'s' * (count > 1)}, not {len(words)}", f"{form}; quote what has blanks"
            )
        return words

    def key(self, word: str, what: str = "KEY") -> bytes:
        """A key or a prefix."""
        key = self.bytes(word, what)
        if not 1 <= len(key) <= KEY_SIZE_BYTES_MAX:
            raise self.wrong(f"{what} has {len(key)} bytes", f"a {what.lower()} has 1 to {KEY_SIZE_BYTES_MAX} bytes")
        return key

    def bytes(self, word: str, what: str) -> bytes:
        """A key, a prefix or a value."""
        return self.encoding.decode(word, f"line {self.number}: {what}")

    def number_between(self, word: str, least: int, most: int, form: str) -> int:
        """A whole number in decimal digits."""
        if not (word.isascii() and word.isdigit() and len(word) <= len(str(most)) and least <= int(word) <= most):
            raise self.wrong(f"{word!r} is not a number from {least} to {most}", form)
        return int(word)


def _unquoted(quoted: re.Match[str]) -> str:
    """What stands in quotes or after a backslash. In double quotes a backslash quotes only itself and them."""
    single, double, character = quoted.groups()
    return single or character or re.sub(r'\\(["\\])', r"\1", double or "")
