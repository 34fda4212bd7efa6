"""Command lines that cannot be understood: the same form of error as everything else, also as JSON.

Owns the words for what the parser refuses. Knows no command.
"""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from kvctl.failures import ExitCode, usage

ParserError: type[Exception] = typer.BadParameter.__mro__[2]
"""The parser's base class of errors that end with a message: its own name differs between typer's versions."""
_NOT_ONE_OF = re.compile(r"'([^']*)' is not one of (.+?)\.?$")
_PARSER_WORDS = (
    ("Value error, ", ""),
    ("Input should be", "it should be"),
    (", unable to parse string as an integer", ""),
    (", unable to parse string as a number", ""),
)


class Program(TyperGroup):
    """The root command, whose usage errors end as all errors of kvctl do."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run, and end the process with an exit code."""
        given = list(sys.argv[1:] if args is None else args)
        if not extra.pop("standalone_mode", True):
            return super().main(given, standalone_mode=False, **extra)
        try:
            code = super().main(given, standalone_mode=False, **extra)
        except typer.Abort:
            raise SystemExit(int(ExitCode.INTERRUPTED)) from None
        except ParserError as error:
            raise SystemExit(int(_report(error, wants_json(given)))) from None
        raise SystemExit(code if isinstance(code, int) else 0)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line that could not be parsed asks for JSON: the last -o counts."""
    output = ""
    for argument, after in itertools.pairwise([*arguments, ""]):
        if argument == "--":
            break
        if argument in ("-o", "--output"):
            output = after
        elif argument.startswith("--output="):
            output = argument.removeprefix("--output=")
        elif argument.startswith("-o") and len(argument) > 2:
            output = argument[2:]
    return output == "json"


def friendly(message: str) -> str:
    """The parser's message in words for people, with the nearest choice where one was mistyped."""
    for parser_words, ours in _PARSER_WORDS:
        message = message.replace(parser_words, ours)
    if match := _NOT_ONE_OF.search(message):
        near = difflib.get_close_matches(match[1], re.findall(r"'([^']*)'", match[2]), 1)
        message = message.rstrip(".") + (f"; did you mean {near[0]}?" if near else "")
    return message[:1].lower() + message[1:].rstrip(".")


def _report(error: Any, as_json: bool) -> ExitCode:
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
        print(context.get_help())
        return ExitCode.USAGE
    if type(error).__name__ == "NoArgsIsHelpError":
        message = f"{context.command_path} needs a command"
    else:
        message = friendly(error.format_message())
    hint = ""
    if context is not None:
        form = " ".join(context.get_usage().split()).removeprefix("Usage: ")
        hint = f"{form}; see {context.command_path} --help"
    failure = usage(message, hint)
    failure.print(as_json)
    return failure.code
