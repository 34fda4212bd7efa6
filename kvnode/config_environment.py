"""Settings in the environment, `KVNODE_SECTION__FIELD`, as pydantic-settings reads them.

A module of its own, so that nobody loads that library where no such variable is set. Knows no setting's meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource


def read_environment(model: type[BaseModel], environ: Mapping[str, str], prefix: str, delimiter: str) -> dict[str, Any]:
    """The settings in `environ`, by sections, which are the fields of `model`. Raises ValueError (SettingsError) where what
    stands for a whole table is not JSON.
    """
    settings = cast("type[BaseSettings]", type("Settings", (model, BaseSettings), {}))
    return _Source(settings, environ, prefix, delimiter)()


class _Source(EnvSettingsSource):
    """Reads a given environment instead of the process's."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str], prefix: str, delimiter: str) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(settings, env_prefix=prefix, env_nested_delimiter=delimiter)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ
