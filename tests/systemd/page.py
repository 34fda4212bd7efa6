"""A page of documentation as a program: its blocks of commands, where each runs, and what it should print.

    ```sh kv1 exit=3              commands, in a shell of that place; it ends with 3, and without the word with 0
    systemctl status kvnode@n1
    ```
    ```text                       all that they print, line by line; without such a block they print nothing
    × kvnode@n1.service - kvnode n1
    …
    ```

In what is printed "…" stands for anything within a line, and alone for any number of lines; how many blanks there are does not
matter. With the word `soon` commands only look, at what comes a moment later: they may be repeated until it is there. Owns how
a page is read and outputs are compared. Runs nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

COMMANDS, OUTPUT = "sh", "text"
SHOWN = ("toml", "ini")
"""Languages of what is only to be read. Any other is a mistake, or commands could hide in it."""
ANYTHING = "…"
_FENCE = re.compile(r"```+(.*)")


class PageError(Exception):
    """The page is not written as it must be; names the line."""


@dataclass(frozen=True)
class Block:
    """Commands of a page."""

    section: str
    """The heading below which it stands, of the second or third level."""
    line: int
    """Of the fence that opens it."""
    place: str
    exit_code: int
    commands: str
    is_repeatable: bool
    """Whether to look again until what is expected is there."""
    expected: tuple[str, ...] = ()
    """The lines that they print."""


def blocks(text: str) -> list[Block]:
    """All blocks of commands, in order. Raises PageError."""
    found: list[Block] = []
    previous = -1
    for section, line, after, info, content in _fences(text):
        language, *words = info.split() or [""]
        if language == COMMANDS:
            found.append(_block(section, line, words, content))
        elif language == OUTPUT:
            if previous != line - 1 or not found or words:
                raise PageError(f"line {line}: output belongs right below the block of commands that prints it")
            found[-1] = replace(found[-1], expected=tuple(content))
        elif language not in SHOWN:
            raise PageError(f"line {line}: {language or 'no language'}: it must be {COMMANDS}, {OUTPUT} or {', '.join(SHOWN)}")
        previous = after if language == COMMANDS else -1
    return found


def _fences(text: str) -> Iterator[tuple[str, int, int, str, list[str]]]:
    """Of each fenced block: its section, the line where it begins and the one where it ends, what its fence says, its lines."""
    section, begin, info, content = "", 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.fullmatch(line.strip())
        if begin and fence and not fence[1]:
            yield section, begin, number, info, content
            begin = 0
        elif begin:
            content.append(line)
        elif fence:
            begin, info, content = number, fence[1], []
        elif line.startswith(("## ", "### ")):
            section = line.lstrip("# ")
    if begin:
        raise PageError(f"line {begin}: this block has no end")


def _block(section: str, line: int, words: Sequence[str], content: Sequence[str]) -> Block:
    if not words:
        raise PageError(f"line {line}: where do these commands run? Say it behind the language: ```{COMMANDS} workstation")
    place, exit_code, is_repeatable = words[0], 0, False
    for word in words[1:]:
        if word.startswith("exit="):
            exit_code = int(word.removeprefix("exit="))
        elif word == "soon":
            is_repeatable = True
        else:
            raise PageError(f"line {line}: {word!r} is none of: exit=CODE, soon")
    return Block(section, line, place, exit_code, "\n".join(content) + "\n", is_repeatable)


def difference(expected: Sequence[str], printed: str) -> str:
    """The first line of `expected` that was not printed where it should be; "" if all is as expected."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    actual = "".join(f"{line}\n" for line in lines)
    patterns = [_pattern(line) for line in expected]
    if re.fullmatch("".join(patterns), actual):
        return ""
    for count in range(1, len(patterns) + 1):
        if not re.match("".join(patterns[:count]), actual):
            return f"not printed, or not there: {expected[count - 1]}"
    return "more was printed than is shown"


def _pattern(line: str) -> str:
    words = " ".join(line.split())
    if words == ANYTHING:
        return r"(?:.*\n)*?"
    return ".*?".join(map(re.escape, words.split(ANYTHING))) + r"\n"


def inline_commands(text: str, programs: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The line and the first words, program and subcommands, of each command of these programs in the text of a page."""
    fenced = {number for _, begin, end, _, _ in _fences(text) for number in range(begin, end + 1)}
    for number, line in enumerate(text.splitlines(), 1):
        for program, words in re.findall(rf"`({'|'.join(programs)}) ([^`]*)`", line) if number not in fenced else ():
            subcommands = itertools.takewhile(lambda word: re.fullmatch(r"[a-z]+", word), words.split())
            yield number, " ".join([program, *itertools.islice(subcommands, 2)])


def anchors(text: str) -> dict[str, str]:
    """The anchors that GitHub gives a page's headings, and what stands below each, up to the next heading."""
    fenced = {number for _, begin, end, _, _ in _fences(text) for number in range(begin, end + 1)}
    found: dict[str, str] = {}
    anchor = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") and number not in fenced:
            anchor = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            found[anchor] = ""
        elif anchor:
            found[anchor] += f"{line}\n"
    return found
