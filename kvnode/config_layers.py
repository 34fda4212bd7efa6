"""Where settings come from: preset < TOML file < credentials < environment < flags, each value with its origin.

Owns the reading of the five layers and the wording of what is wrong with them. Never knows what a setting means: that is
`kvnode.config`. Invariants: a setting that no field takes is an error, never ignored; every error names the setting's
path (`election.timeout_ms_min`) and the place that set it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX = "KVNODE_"
ENVIRONMENT_DELIMITER = "__"
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""Variable with the directory where systemd puts a service's credentials (systemd.exec(5), LoadCredential)."""
DEFAULT = "default"
"""Origin of what nobody set."""

Tree = dict[str, Any]


class ConfigError(Exception):
    """The configuration cannot be used. `problems` are complete sentences for a person, one for each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Contradictions(ValueError):
    """Settings that are fine alone and not together: pairs of a setting's path and what is wrong with it."""

    def __init__(self, found: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in found))
        self.found = tuple(found)


@dataclass(frozen=True)
class Layers:
    """All layers merged, and for each setting's path the layer that had the last word."""

    tree: Tree
    origins: Mapping[str, str]

    def origin(self, path: str) -> str:
        """The layer that set `path`, or something in that table; else "default"."""
        within = (origin for setting, origin in self.origins.items() if setting.startswith(f"{path}."))
        return self.origins.get(path) or next(within, DEFAULT)


def read_layers(
    model: type[BaseModel], preset: tuple[str, Tree], path: Path | None, flags: Mapping[str, str], environ: Mapping[str, str]
) -> Layers:
    """Read and merge all layers for `model`, whose fields are the sections.

    `preset` is a name and its settings, ("", {}) for none. `flags` map a setting's path to its text. Raises ConfigError
    where a layer cannot be read at all; whether the values fit is for the model to say.
    """
    # Sections with required fields are there, so that what is missing is reported field by field.
    tree: Tree = {section: {} for section, field in model.model_fields.items() if field.is_required()}
    origins: dict[str, str] = {}
    for setting, origin, value in (
        *((setting, f"preset {preset[0]}", value) for setting, value in _leaves(preset[1])),
        *_file(path),
        *_credentials(environ.get(CREDENTIALS_DIRECTORY, "")),
        *_environment(model, environ),
        *_flags(flags),
    ):
        _put(tree, setting, value, origin)
        origins[".".join(setting)] = origin
    return Layers(tree, origins)


def explain(error: ValidationError, model: type[BaseModel], layers: Layers) -> ConfigError:
    """Say in a person's words what pydantic found, with the path and the origin of each offending value."""
    problems: list[str] = []
    for detail in error.errors():
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Contradictions):
            problems.extend(f"{path}: {message} (from {layers.origin(path)})" for path, message in cause.found)
        else:
            problems.append(_problem(detail, model, layers))
    return ConfigError(problems)


def _problem(detail: ErrorDetails, model: type[BaseModel], layers: Layers) -> str:
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown {_kind(location)} (from {layers.origin(path)}){_suggestion(location, model)}"
    if detail["type"] == "missing":
        variable = ENVIRONMENT_PREFIX + path.replace(".", ENVIRONMENT_DELIMITER).upper()
        return f"{path}: required; set it in the file, as {variable}, or as --{path}"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if _is_secret(location, model) else f", not {detail['input']!r}"
    return f"{path}: {message[:1].lower()}{message[1:]}{given} (from {layers.origin(path)})"


def _is_secret(location: Sequence[str], model: type[BaseModel]) -> bool:
    field = _fields(model, location[:-1]).get(location[-1])
    return field is not None and field.annotation is SecretStr


def _kind(location: Sequence[str]) -> str:
    return "section" if len(location) == 1 else "field"


def _suggestion(location: Sequence[str], model: type[BaseModel]) -> str:
    name, siblings = location[-1], list(_fields(model, location[:-1]))
    homes = [section for section in model.model_fields if name in _fields(model, [section])]
    if homes:
        return f"; {name} belongs to [{homes[0]}]"
    close = difflib.get_close_matches(name.lower().replace("-", "_"), siblings, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(siblings)}"


def _fields(model: type[BaseModel], location: Sequence[str]) -> Mapping[str, Any]:
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return {}
        model = annotation
    return model.model_fields


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _put(tree: Tree, setting: tuple[str, ...], value: Any, origin: str) -> None:
    for depth, part in enumerate(setting[:-1], 1):
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError([f"{'.'.join(setting)}: {'.'.join(setting[:depth])} is a value, not a table (from {origin})"])
    tree[setting[-1]] = value


_Leaf = tuple[tuple[str, ...], str, Any]


def _file(path: Path | None) -> Iterator[_Leaf]:
    if path is None:
        return
    try:
        tree = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from error
    for name, value in tree.items():
        if not isinstance(value, Mapping):
            raise ConfigError([f"{name}: stands outside of any section; put it below a [section] line (from {path})"])
    for setting, value in _leaves(tree):
        yield setting, str(path), value


def _environment(model: type[BaseModel], environ: Mapping[str, str]) -> Iterator[_Leaf]:
    ours = {name: value for name, value in environ.items() if name.upper().startswith(ENVIRONMENT_PREFIX)}
    problems = []
    for name in ours:
        section, delimiter, _ = name[len(ENVIRONMENT_PREFIX) :].lower().partition(ENVIRONMENT_DELIMITER)
        if delimiter and section not in model.model_fields:
            problems.append(f"{section}: unknown section (from environment {name}){_suggestion([section], model)}")
    if problems:
        raise ConfigError(problems)
    if not ours:
        return
    from kvnode.config_environment import read_environment  # its library takes 60 ms: only who uses it pays

    try:
        tree = read_environment(model, ours, ENVIRONMENT_PREFIX, ENVIRONMENT_DELIMITER)
    except ValueError as error:
        raise ConfigError([f"environment: {error}; a whole table must be JSON"]) from error
    for setting, value in _leaves(tree):
        yield setting, f"environment {ENVIRONMENT_PREFIX}{ENVIRONMENT_DELIMITER.join(setting).upper()}", value


def _credentials(directory: str) -> Iterator[_Leaf]:
    """A file named as a setting, "section.field", holds its value; files with other names are somebody else's."""
    texts: dict[str, str] = {}
    try:
        for file in sorted(Path(directory).iterdir()) if directory else ():
            if "." in file.name and not file.name.startswith("."):
                texts[file.name] = file.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ConfigError([f"{error.filename}: the credential cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: the credential is not UTF-8 text: {error.reason}"]) from None  # (and is not shown)
    yield from _texts(texts, "credential ")


def _flags(flags: Mapping[str, str]) -> Iterator[_Leaf]:
    yield from _texts(flags, "flag --")


def _texts(texts: Mapping[str, str], origin: str) -> Iterator[_Leaf]:
    """Settings by path, each value as text."""
    tree: Tree = {}
    for path, value in texts.items():
        _put(tree, tuple(path.split(".")), value, f"{origin}{path}")
    for setting, value in _leaves(tree):
        yield setting, f"{origin}{'.'.join(setting)}", value
