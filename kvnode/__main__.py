"""The `kvnode` command: arguments -> configuration -> node.

Owns the command line. Exit codes: 0 done, 1 the configuration cannot be used, or the doctor found problems, 2 the command line
is wrong; `run` ends with `kvnode.exit_codes`'. Never decides what runs: that is `kvnode.node`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pwd
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial

from kvnode import __version__
from kvnode.config import PRESETS, Config, ConfigError
from kvnode.config_layers import CREDENTIALS_DIRECTORY
from kvnode.exit_codes import UNUSABLE_CONFIG
from kvnode.runtime.service_manager import is_journal, priority

_SETTING = re.compile(r"--([A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z0-9_.-]+)(?:=(.*))?", re.DOTALL)

_EPILOG = """
Settings: preset < TOML file (--config) < credentials (systemd's LoadCredential=section.field:FILE)
< environment KVNODE_SECTION__FIELD < flags --section.field VALUE.
`kvnode config dump --preset local` lists them all.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        rest, flags = split_settings(given)
        options = _parser().parse_args(rest)
        if options.command == "version":
            print(f"kvnode {__version__}")
            return 0
        if options.command == "doctor":
            from kvnode.doctor.command import examine

            load = partial(Config.load, options.config, flags, os.environ, options.preset)
            return examine(load, options.config or "", options.user, options.output)
        environ = dict(os.environ)
        if getattr(options, "without_credentials", False):
            environ.pop(CREDENTIALS_DIRECTORY, None)
        config, origins = Config.load_with_origins(options.config, flags, environ, options.preset)
    except ConfigError as error:
        for problem in error.problems:
            print(f"{priority('error') if is_journal(sys.stderr) else ''}kvnode: {problem}", file=sys.stderr)
        return UNUSABLE_CONFIG if given[:1] == ["run"] else 1
    if options.command == "run":
        _load_server()(config, lambda: Config.load(options.config, flags, os.environ, options.preset))
    elif options.action == "check":
        members = f"{len(config.cluster.members)} member{'s' if len(config.cluster.members) > 1 else ''}"
        print(f"ok: node {config.node.name} of cluster {config.cluster.id}, {members}, {config.cluster.shards} shards")
    elif options.output == "json":
        names = [f"{section}.{name}" for section, values in config.model_dump().items() for name in values]
        document = {"config": config.model_dump(mode="json"), "origins": {name: origins.origin(name) for name in names}}
        print(json.dumps(document, indent=2))
    else:
        print(config.to_toml(origins), end="")
    return 0


def _load_server() -> Callable[[Config, Callable[[], Config]], None]:
    """The server's code, loaded only to run it: `config` and `version` answer without. Quickly: others wait for this node."""
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog would load it, for tracebacks that none reads here
    gc.disable()  # What is loaded stays, so that there is no garbage to be looked for.
    from kvnode.process import run_node

    gc.enable()
    return run_node


def split_settings(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate `--section.field VALUE` and `--section.field=VALUE` from everything else. Raises ConfigError."""
    rest: list[str] = []
    flags: dict[str, str] = {}
    waiting = iter(arguments)
    for argument in waiting:
        match = _SETTING.fullmatch(argument)
        if not match:
            rest.append(argument)
            continue
        section, _, field = match[1].partition(".")
        path = f"{section.replace('-', '_')}.{field if field.startswith('members.') else field.replace('-', '_')}"
        value = match[2] if match[2] is not None else next(waiting, None)
        if value is None:
            raise ConfigError([f"{path}: a value is missing after --{match[1]}"])
        flags[path] = value
    return rest, flags


def _uid(user: str) -> int:
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no user {user!r} on this host") from None


def _parser() -> argparse.ArgumentParser:
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--config", metavar="FILE", help="TOML file with the settings")
    source.add_argument("--preset", default="", choices=["", *PRESETS], metavar="NAME", help=f"one of: {', '.join(PRESETS)}")
    parser = argparse.ArgumentParser("kvnode", description="A replicated key-value store, one process a node.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", parents=[source], epilog=_EPILOG, help="run this node until SIGTERM")
    config = commands.add_parser("config", help="check or print the settings")
    actions = config.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", parents=[source], epilog=_EPILOG, help="say whether the settings can be used")
    check.add_argument("--without-credentials", action="store_true", help="leave out systemd's: only the node may read them")
    dump = actions.add_parser("dump", parents=[source], epilog=_EPILOG, help="print all settings and where each came from")
    dump.add_argument("-o", "--output", choices=["toml", "json"], default="toml", help="format (default: toml)")
    doctor = commands.add_parser("doctor", parents=[source], epilog=_EPILOG, help="look for what is wrong, or will be")
    doctor.add_argument("--user", type=_uid, metavar="USER", help="who the node runs as (default: who has its data directory)")
    doctor.add_argument("-o", "--output", choices=["table", "json"], default="table", help="format (default: table)")
    commands.add_parser("version", help="print the version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
