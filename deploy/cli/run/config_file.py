"""A configuration as a TOML file: some fields, laid over a base, or all of them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from apexpert.errors import one_line
from deploy.run.config import Config, ConfigError, overlaid, to_json


@dataclass(frozen=True)
class ConfigFile:
    """The fields that a file sets: a table for each section, `[replay]` with `n_step = 5`."""

    path: Path
    sections: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; raise ConfigError that names it when it is none, or no TOML."""
        try:
            return cls(path, tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"--config {path}: {error.strerror}") from None
        except ValueError as error:  # A TOMLDecodeError names line and column.
            raise ConfigError(f"--config {path}: {one_line(error)}") from None

    @property
    def preset(self) -> str:
        """The preset that the file names, or nothing."""
        run = self.sections.get("run")
        return str(run.get("preset", "")) if isinstance(run, dict) else ""

    def over(self, base: Config) -> Config:
        """Return `base` with the file's fields in place of its own; raise ConfigError naming a wrong one."""
        try:
            return overlaid(base, self.sections)
        except ConfigError as error:
            raise ConfigError(f"--config {self.path}: {str(error).removeprefix('config: ')}") from None


def to_toml(config: Config) -> str:
    """Return every field as TOML; a `ConfigFile` of this text over any base gives `config` again."""
    return tomli_w.dumps(to_json(config))
