"""What all commands share: the common options, where the cluster is, and how failures end.

`command` turns a function that takes a `Call` first into a typer command with the common options, so that they can stand
after the command's name; the same options before it count too.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from kvctl.failures import ExitCode, Failure, not_installed, usage
from kvctl.output import Encoding, Output

DEFAULT_ENDPOINT = "127.0.0.1:7401"
TIMEOUT_S = 5.0
PANEL = "Common options"

EndpointsOption = Annotated[
    str | None,
    typer.Option(
        "--endpoints",
        "-e",
        metavar="HOST:PORT,...",
        help="Nodes to talk to. Else KVCTL_ENDPOINTS, the playground last started, 127.0.0.1:7401.",
        rich_help_panel=PANEL,
    ),
]
DirOption = Annotated[
    Path | None, typer.Option("--dir", "-d", metavar="DIR", help="The playground's directory.", rich_help_panel=PANEL)
]
OutputOption = Annotated[Output | None, typer.Option("--output", "-o", help="table (default) or json.", rich_help_panel=PANEL)]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", "-t", min=0.001, metavar="SECONDS", help="For the whole command (default: 5).", rich_help_panel=PANEL
    ),
]
HexOption = Annotated[bool, typer.Option("--hex", help="Keys and values are hexadecimal.", rich_help_panel=PANEL)]
Base64Option = Annotated[bool, typer.Option("--base64", help="Keys and values are base64.", rich_help_panel=PANEL)]


@dataclass
class Call:
    """One command's common options."""

    endpoints_given: str | None = None
    directory: Path | None = None
    output: Output = Output.TABLE
    timeout_given_s: float | None = None
    encoding: Encoding = Encoding.TEXT

    @property
    def as_json(self) -> bool:
        """Whether answers and errors are JSON."""
        return self.output is Output.JSON

    @property
    def timeout_s(self) -> float:
        """Seconds for the whole command."""
        return self.timeout_given_s or TIMEOUT_S

    @property
    def endpoints(self) -> list[str]:
        """Where the cluster is: --endpoints, --dir, KVCTL_ENDPOINTS, the playground last started, 127.0.0.1:7401."""
        if self.endpoints_given:
            return parse_endpoints(self.endpoints_given, "--endpoints")
        if self.directory is not None:
            return playground_endpoints(self.directory)
        if from_environment := os.environ.get("KVCTL_ENDPOINTS"):
            return parse_endpoints(from_environment, "KVCTL_ENDPOINTS")
        last = last_playground()
        return playground_endpoints(last) if last is not None else [DEFAULT_ENDPOINT]


def parse_endpoints(text: str, source: str) -> list[str]:
    """ "host:port,host:port", also with kv:// in front. Raises a usage failure."""
    endpoints = [part.strip() for part in text.removeprefix("kv://").split(",") if part.strip()]
    for endpoint in endpoints:
        host, colon, port = endpoint.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise usage(f"{source}: {endpoint!r} is not host:port", "for example --endpoints 127.0.0.1:7401,127.0.0.1:7402")
    if not endpoints:
        raise usage(f"{source} names no endpoint", "for example --endpoints 127.0.0.1:7401,127.0.0.1:7402")
    return endpoints


def playground_endpoints(directory: Path) -> list[str]:
    """The addresses of a playground's nodes. Raises PlaygroundError."""
    from kvctl.playground_files import PlaygroundFiles

    return [node.address for node in PlaygroundFiles(directory.resolve()).load().nodes.values()]


def state_directory() -> Path:
    """Where kvctl remembers things between two calls (XDG base directories)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kvctl"


def last_playground() -> Path | None:
    """The directory of the playground last started, if it still is one."""
    try:
        directory = Path(json.loads((state_directory() / "last-playground.json").read_text())["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return directory if os.path.isfile(directory / "cluster.json") else None


def remember_playground(directory: Path) -> None:
    """Make a playground the default of later commands. A home that cannot be written is no error: it is a convenience."""
    try:
        state_directory().mkdir(parents=True, exist_ok=True)
        (state_directory() / "last-playground.json").write_text(json.dumps({"directory": str(directory)}) + "\n")
    except OSError:
        pass


def forget_playground(directory: Path) -> None:
    """The playground is gone: it is nobody's default any more."""
    path = state_directory() / "last-playground.json"
    try:
        if json.loads(path.read_text())["directory"] == str(directory):
            path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        pass


def merge(before: Call | None, options: dict[str, Any]) -> Call:
    """The options after the command's name, over those before it."""
    if options.get("hex_") and options.get("base64_"):
        raise usage("--hex and --base64 exclude each other")
    call = before or Call()
    encoding = Encoding.HEX if options.get("hex_") else Encoding.BASE64 if options.get("base64_") else call.encoding
    return Call(
        endpoints_given=options["endpoints"] or call.endpoints_given,
        directory=options["directory"] or call.directory,
        output=options.get("output") or call.output,
        timeout_given_s=options["timeout"] or call.timeout_given_s,
        encoding=encoding,
    )


_COMMON = {"endpoints": EndpointsOption, "directory": DirOption, "output": OutputOption, "timeout": TimeoutOption}
_BYTES = {"hex_": HexOption, "base64_": Base64Option}


def command(
    app: typer.Typer, name: str, *, takes_bytes: bool = False, panel: str | None = None, timeout: Any = TimeoutOption
) -> Callable[..., Any]:
    """Register a function as a command. Its first parameter gets the `Call`, the others are typer's; common options are
    added, except those that it has itself, with a meaning of its own; failures end the process with their exit code.
    `timeout`: that option, where it is not for the whole command.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        possible = _COMMON | {"timeout": timeout} | (_BYTES if takes_bytes else {})
        common = {option: possible[option] for option in possible if option not in {parameter.name for parameter in own}}
        added = [
            inspect.Parameter(
                option, inspect.Parameter.KEYWORD_ONLY, default=False if option in _BYTES else None, annotation=annotation
            )
            for option, annotation in common.items()
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @functools.wraps(function)
        def run(**given: Any) -> None:
            before: Call | None = given.pop("context").obj
            options = {option: given.pop(option) for option in common}
            call = before or Call()
            try:
                call = merge(before, options)
                function(call, **given)
                sys.stdout.flush()
            except BaseException as error:
                code = report(error, call.as_json or options.get("output") is Output.JSON)
                raise SystemExit(int(code)) from None

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]) for parameter in own
        ]
        run.__signature__ = inspect.Signature([*parameters, *added, context])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*parameters, *added, context]}
        del run.__wrapped__
        app.command(name, rich_help_panel=panel)(run)
        return function

    return register


def report(error: BaseException, as_json: bool) -> ExitCode:
    """Print what went wrong, and return the exit code. A wish to exit is raised again."""
    from kvctl.playground_files import PlaygroundError

    if isinstance(error, SystemExit | typer.Exit | typer.Abort):
        raise error

    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing more to say
        return ExitCode.OK
    if isinstance(error, PlaygroundError):
        code = ExitCode.USAGE if error.usage else ExitCode.PLAYGROUND
        error = Failure(code, code.name, error.message, error.hint, log_tail=error.log_tail)
    if isinstance(error, OSError) and error.filename is not None:  # a file that the user named
        error = usage(f"{error.filename}: {(error.strerror or str(error)).lower()}")
    if isinstance(error, ModuleNotFoundError):
        error = not_installed(error) or error
    if not isinstance(error, Failure):
        trace = "".join(traceback.format_exception(error))
        error = Failure(ExitCode.INTERNAL, "DEFECT", f"kvctl failed: {error!r}", "please report this", log_tail=trace)
    error.print(as_json)
    return error.code
