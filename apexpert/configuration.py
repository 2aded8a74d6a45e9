"""A run's configuration from Python: a preset, and changes of its fields."""

from typing import Any

from deploy.run import presets
from deploy.run.checks import check, near_matches
from deploy.run.config import Config, ConfigError, from_json, leaf_types, to_json
from deploy.run.preflight import with_named_urls

__all__ = ["Config", "preset", "with_changes"]


def preset(name: str = presets.DEFAULT, /, **changes: Any) -> Config:
    """The preset `name` with some fields changed, checked as the command line does.

    A field goes by its own name where only one section has it (`game="Pong"`, `seed=1`, `n_step=5`), else
    with the section before it (`replay__gamma=0.99`); both are the words of the flags of `apexpert train`.
    Raises ConfigError, in one line that names the flag.
    """
    return with_changes(presets.get_preset(name), **changes)


def with_changes(config: Config, /, **changes: Any) -> Config:
    """`config` with some fields changed, named as in `preset`. Raises ConfigError."""
    document, given = to_json(config), set()
    for name, value in changes.items():
        section, field = _place(name)
        # A list, because `from_json` expects what JSON gives.
        document[section][field] = list(value) if isinstance(value, tuple) else value
        given.add(f"{section}.{field}")
    # A preset's options that do not fit the head or the values asked for give way (decision 0025).
    changed = presets.fitted(from_json(document), config, given)
    changed = with_named_urls(changed)
    check(changed)
    return changed


def _place(name: str) -> tuple[str, str]:
    """Section and field that `name` stands for; ConfigError when none or several do."""
    fields = [path.split(".") for path in leaf_types()]
    found = [(section, field) for section, field in fields if name in (field, f"{section}__{field}")]
    if len(found) == 1:
        return found[0]
    if found:
        several = " or ".join("__".join(place) for place in found)
        raise ConfigError(f"{name}: several sections have this field: {several}")
    known = [word for section, field in fields for word in (field, f"{section}__{field}")]
    raise ConfigError(f"{name}: no such field of the configuration{near_matches(name, known)}")
