"""Finds the configuration whose values flags replace: it comes from a preset, a file or another run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.errors import UsageError
from deploy.cli.parsing import flag_value
from deploy.cli.run.config_file import ConfigFile
from deploy.run import presets
from deploy.run.config import Config, RunConfig, paths_in, with_values
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder


@dataclass(frozen=True)
class BaseOptions:
    """Start from the values of a file or of another run; all other flags replace them."""

    config: str = ""
    """TOML file of fields that replace the preset's: a table for each section, as --print-config writes."""
    like: str = ""
    """Run whose configuration takes the preset's place: its name under --runs-dir or its folder's path."""
    print_config: bool = False
    """Print the configuration as TOML and end; that file, given by --config, makes the same run."""


def base_of(full: Sequence[str], default: Callable[[], Config]) -> Config:
    """Return the configuration whose values the flags replace."""
    preset = _given(full, "--preset", f"allowed are {', '.join(presets.PRESETS)}")
    path, like = _given(full, "--config", "name a TOML file"), _given(full, "--like", "name a run")
    file = ConfigFile.read(Path(path)) if path else None
    if like and preset:
        raise UsageError(f"--preset: --like {like} sets every field already; leave one of them out")
    if file and file.preset and preset and file.preset != preset:
        raise UsageError(
            f"--preset {preset}: {file.path} has the preset {file.preset}; leave one of them out"
        )
    if like and file and file.preset:
        # Its name would stand in the configuration, without its values.
        raise UsageError(f"--like {like}: {file.path} has the preset {file.preset}; leave one of them out")
    if like:
        try:
            run = RunFolder.open(like, flag_value(full, "--runs-dir") or RunConfig().runs_dir)
            base = with_values(run.load_config(), run__name="", run__detach=False)
        except RunError as error:
            raise UsageError(f"--like: {error}") from None
    elif preset or (file and file.preset):
        base = presets.get_preset(preset if preset or file is None else file.preset)
    else:
        base = default()
    # What the file leaves out and does not fit its head or values gives way, as with flags.
    return presets.fitted(file.over(base), base, paths_in(file.sections)) if file else base


def _given(full: Sequence[str], flag: str, allowed: str) -> str:
    """Return the flag's value; empty without the flag. Raises UsageError for a flag without a value."""
    # Asked for apart from its value: a flag without a value is a mistake, not the default.
    if any(token.partition("=")[0] == flag for token in full) and not flag_value(full, flag):
        raise UsageError(f"{flag}: needs a value; {allowed}")
    return flag_value(full, flag) or ""
