"""What sets the values that flags replace: a preset, a file or another run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.errors import UsageError
from deploy.cli.parsing import flag_value
from deploy.cli.run.config_file import ConfigFile
from deploy.run import presets
from deploy.run.config import Config, RunConfig, with_values
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder


@dataclass(frozen=True)
class BaseOptions:
    """What sets the values that flags replace, beside a preset."""

    config: str = ""
    """TOML file of fields that replace the preset's: a table for each section, as --print-config writes."""
    like: str = ""
    """Run whose configuration takes the preset's place: its name under --runs-dir or its folder's path."""
    print_config: bool = False
    """Print the configuration as TOML and end; that file, given by --config, makes the same run."""


def base_of(full: Sequence[str], default: Callable[[], Config]) -> Config:
    """Return the configuration whose values the flags replace."""
    # Asked for apart from its value: --preset without a value is a mistake, not the default.
    preset = flag_value(full, "--preset") or ""
    given = any(token.partition("=")[0] == "--preset" for token in full)
    if given and not preset:
        raise UsageError(f"--preset: needs a value; allowed are {', '.join(presets.PRESETS)}")
    path, like = flag_value(full, "--config"), flag_value(full, "--like")
    file = ConfigFile.read(Path(path)) if path else None
    if like and given:
        raise UsageError(f"--preset: --like {like} sets every field already; leave one of them out")
    if file and file.preset and given and file.preset != preset:
        raise UsageError(
            f"--preset {preset}: {file.path} has the preset {file.preset}; leave one of them out"
        )
    if like:
        try:
            run = RunFolder.open(like, flag_value(full, "--runs-dir") or RunConfig().runs_dir)
            base = with_values(run.load_config(), run__name="", run__detach=False)
        except RunError as error:
            raise UsageError(f"--like: {error}") from None
    elif given or (file and file.preset):
        base = presets.get_preset(preset if given or file is None else file.preset)
    else:
        base = default()
    return file.over(base) if file else base
