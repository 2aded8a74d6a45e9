"""Flags that were given and do nothing, such as the atoms of a network that learns quantiles.

Presets set such fields for whoever asks for the other values, so they are no mistake, but a note says it.
"""

import dataclasses
import sys
from collections.abc import Container, Sequence
from typing import Any

from actors.config import EnvironmentConfig
from deploy.cli.parsing import as_typed, expand_short, flag_names
from deploy.run.config import Config, flag_of, leaves, switched_off
from models.config import MOE_HEADS, is_imported

ATARI = tuple(
    f"environment.{field.name}"
    for field in dataclasses.fields(EnvironmentConfig)
    if field.name not in ("env", "stack")
)
"""Fields of an Atari game, which any other environment decides by itself."""
USED_WITH: tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...] = (
    ("network.values", ("c51",), ("network.num_atoms", "network.v_min", "network.v_max")),
    ("network.values", ("quantile",), ("network.num_quantiles",)),
    ("network.head", ("dense",), ("network.dense_hidden_units", "network.scale_dense")),
    ("network.head", MOE_HEADS, ("network.expert_hidden_units",)),
    ("network.head", (*MOE_HEADS, "dense"), ("network.num_experts",)),
    ("network.tokens", ("per_patch",), ("network.patch_size", "network.patch_embedding")),
    ("network.tokens", ("per_patch",), ("network.patch_width",)),
    ("network.patch_embedding", ("learned",), ("network.patch_width",)),
    ("network.noisy", (True,), ("network.noisy_sigma", "network.noise_per")),
    ("replay.prioritized", (True,), ("replay.priority_exponent", "replay.importance_exponent")),
    ("replay.prioritized", (True,), ("learner.priority",)),
    ("exploration.kind", ("linear",), ("exploration.epsilon_start", "exploration.epsilon_end")),
    ("exploration.kind", ("linear",), ("exploration.epsilon_decay_steps",)),
    ("exploration.kind", ("ladder",), ("exploration.ladder_base", "exploration.ladder_exponent")),
    ("environment.env", ("",), ATARI),
    ("replay.urls", ((),), ("replay.append_fsync", "replay.shard_memory_bytes")),
)
"""A field, its values with which other fields count, and these: with any other value they do nothing."""


def given_fields(argv: Sequence[str]) -> frozenset[str]:
    """Return the fields of the configuration, such as `learner.loss`, whose flags `argv` gives."""
    fields = {
        flag: path for path in leaves(Config()) for flag in (flag_of(path), switched_off(flag_of(path)))
    }
    return frozenset(fields[name] for name in flag_names(expand_short(argv)) if name in fields)


def idle(config: Config, given: Container[str]) -> dict[str, str]:
    """Return which of the fields `given` do nothing in this configuration, each with the flag to blame."""
    values, found = leaves(config), {}
    if config.network.head == "dense" and not config.network.scale_dense:
        found["network.num_experts"] = "--network.head dense without --network.scale-dense"
    for decisive, used_with, paths in USED_WITH:
        value = values[decisive]
        # A head of the user's own is given the whole configuration of the network.
        if value not in used_with and not (decisive == "network.head" and is_imported(value)):
            found = dict.fromkeys(paths, _shown(decisive, value)) | found
    return {path: blamed for path, blamed in found.items() if path in given}


def print_idle(config: Config, argv: Sequence[str]) -> None:
    """Print on stderr a note for each flag of `argv` that does nothing."""
    for path, blamed in idle(config, given_fields(argv)).items():
        # On stderr, because standard output may be JSON.
        print(f"note: {as_typed(f'{flag_of(path)} does nothing with {blamed}', argv)}", file=sys.stderr)


def _shown(path: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag_of(path) if value else switched_off(flag_of(path))
    # URLs may hold passwords.
    return flag_of(path) if isinstance(value, tuple) else f"{flag_of(path)} {value}"
