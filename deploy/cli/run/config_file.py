"""A configuration as a TOML file: some fields, laid over a base, or all of them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from apexpert.errors import one_line
from deploy.run.config import Config, ConfigError, from_json, to_json
from models.config import with_current_names


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
        document = to_json(base)
        for section, values in self.sections.items():
            known = document.get(section)
            if not isinstance(values, dict) or known is None:
                document[section] = values  # Refused by from_json, which says why.
            else:
                document[section] = known | (with_current_names(values) if section == "network" else values)
        try:
            return from_json(document)
        except ConfigError as error:
            raise ConfigError(f"--config {self.path}: {str(error).removeprefix('config: ')}") from None


def to_toml(config: Config) -> str:
    """Return every field as TOML; a `ConfigFile` of this text over any base gives `config` again."""
    return tomli_w.dumps(to_json(config))
