"""Convert options of the reference code (Dopamine's labs/moes), by their names there, to a `NetworkConfig`.

A network there is ImpalaMoE or NatureDQNMoE (`kind` dqn) or FullRainbowMoENetwork (`kind` rainbow).
An option that a case does not name has the network's default value.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from apexpert.errors import ApexpertError
from models.config import NetworkConfig, Tokens

Options = Mapping[str, Any]
HEADS = {"BASELINE": "dense", "SOFTMOE": "soft_moe", "MOE": "top_k_moe"}
TOKENS: dict[str, Tokens] = {
    "PER_PIXEL": "per_conv",
    "PER_FEATUREMAP": "per_feature_map",
    "PER_SAMPLE": "per_sample",
    "PER_PATCH": "per_patch",
}
ENCODERS = {"IMPALA": "impala", "CNN": "nature"}
# Options of the reference for which we have no arm, each with the only value accepted.
ONLY: dict[str, Any] = {
    "use_extra_linear_layer": False,
    "expert_type": "SMALL",
    "use_random_phi": False,
    "maintain_token_size": True,
    "inputs_preprocessed": False,
    "noisy_routing": False,
    "mse_loss": False,
    "optimizer": "adam",
}


MOST = 10**6
"""Larger counts are mistakes: no memory can hold them."""
LARGEST = 1e30


class UnsupportedOption(ApexpertError, ValueError):
    """An option, named in the message, that is missing, wrong or not among our arms."""


def network_config(options: Options) -> NetworkConfig:
    """Return our configuration of the network that the reference builds from `options`.

    Raises UnsupportedOption.
    """
    for name, only in ONLY.items():
        if options.get(name, only) != only:
            raise UnsupportedOption(f"{name}: {options[name]!r} is not supported, only {only!r}")
    rainbow = kind(options) == "rainbow"
    encoder = _one_of(options, "encoder_type" if "encoder_type" in options else "encoder", ENCODERS, "IMPALA")
    noisy = flag(options, "noisy", rainbow)
    if noisy and not rainbow:
        raise UnsupportedOption("noisy: true is not supported for kind 'dqn' (noise in the experts alone)")
    hidden = count(options, "expert_hidden_units", 512)
    v_max = number(options, "vmax", 10.0)
    return NetworkConfig(
        encoder=encoder,
        padding="same",
        # The reference's Nature DQN network accepts nn_scale but does not read it.
        encoder_width_scale=_width_scale(options) if rainbow or encoder == "impala" else 1.0,
        tokens=_one_of(options, "routing_type", TOKENS, "PER_PIXEL"),
        patch_size=_patch_size(options),
        patch_embedding="average" if flag(options, "use_avg_pool_for_tokens", False) else "learned",
        patch_width=count(options, "embedding_size", 32 if encoder == "impala" and not rainbow else 64),
        head=_one_of(options, "moe_type", HEADS, "SOFTMOE"),
        num_experts=count(options, "num_experts", 8),
        expert_hidden_units=hidden,
        capacity_factor=_positive(options, "capacity_factor"),
        normalize=flag(options, "normalization", False),
        selected_experts=count(options, "num_selected_experts", 1),
        dense_hidden_units=hidden,
        scale_dense=flag(options, "scale_hidden_layer", False),
        values=_values(options),
        num_atoms=count(options, "num_atoms", 51),
        # As in the reference, a vmin of 0 counts as not given.
        v_min=number(options, "vmin", 0.0) or -v_max,
        v_max=v_max,
        dueling=rainbow and flag(options, "dueling", True),
        noisy=noisy,
    )


def kind(options: Options) -> Literal["dqn", "rainbow"]:
    """Return which of the reference's two agents the options are for; raises UnsupportedOption."""
    found = _one_of(options, "kind", {"dqn": "dqn", "rainbow": "rainbow"}, None)
    return "rainbow" if found == "rainbow" else "dqn"


def is_double(options: Options) -> bool:
    """Whether the online network chooses the next action: by default in the reference's Rainbow only."""
    rainbow = kind(options) == "rainbow"
    double = flag(options, "double_dqn" if "double_dqn" in options else "double", rainbow)
    if double and not rainbow:
        raise UnsupportedOption("double: true is not supported for kind 'dqn'")
    return double


def scalar_loss(options: Options) -> Literal["huber", "squared"]:
    """Return the loss of scalar values, for Rainbow always huber; raises UnsupportedOption.

    The default for a case that names none is huber, though the reference's own default for its DQN
    is mse.
    """
    squared = _one_of(options, "loss_type", {"huber": False, "mse": True}, "huber")
    if squared and kind(options) == "rainbow":
        raise UnsupportedOption("loss_type: 'mse' is not supported for kind 'rainbow'")
    return "squared" if squared else "huber"


def count(options: Options, name: str, default: int | None = None) -> int:
    """Return the option as a positive integer.

    Raises UnsupportedOption, also if the option is missing and there is no default.
    """
    value = _get(options, name, default)
    # In Python a bool is an int.
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedOption(f"{name}: {_short(value)} is not a positive integer")
    if value > MOST:
        raise UnsupportedOption(f"{name}: {_short(value)} is more than {MOST:,}")
    return value


def number(options: Options, name: str, default: float | None = None) -> float:
    """Return the option as a float; raises UnsupportedOption as `count` does."""
    value = _get(options, name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedOption(f"{name}: {_short(value)} is not a number")
    if not -LARGEST < value < LARGEST:
        raise UnsupportedOption(f"{name}: {_short(value)} is not a finite number")
    return float(value)


def flag(options: Options, name: str, default: bool) -> bool:
    """Return the option as a bool; raises UnsupportedOption as `count` does."""
    value = _get(options, name, default)
    if not isinstance(value, bool):
        raise UnsupportedOption(f"{name}: {value!r} is not true or false")
    return value


def _get(options: Options, name: str, default: Any) -> Any:
    value = options.get(name, default)
    if value is None:
        raise UnsupportedOption(f"{name}: is missing")
    return value


def _one_of(options: Options, name: str, choices: Mapping[str, Any], default: str | None) -> Any:
    value = _get(options, name, default)
    if not isinstance(value, str) or value not in choices:
        raise UnsupportedOption(f"{name}: {value!r} is not supported, only {', '.join(choices)}")
    return choices[value]


def _positive(options: Options, name: str) -> float:
    """Return the option, 1 if it is missing, as a float above zero."""
    value = number(options, name, 1.0)
    if not 0.0 < value <= MOST:
        raise UnsupportedOption(f"{name}: {value!r} is not above 0 and at most {MOST:,}")
    return value


def _width_scale(options: Options) -> float:
    """Return the encoder's width scale, which must leave at least one channel of its narrowest layer's 16."""
    scale = _positive(options, "nn_scale")
    if math.floor(16 * scale) < 1:
        raise UnsupportedOption(f"nn_scale: {scale!r} leaves no channel of 16")
    return scale


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]}..."


def _values(options: Options) -> Literal["scalar", "c51"]:
    if kind(options) == "dqn":
        return "scalar"
    if flag(options, "distributional", True):
        return "c51"
    if count(options, "num_atoms", 51) != 1:
        raise UnsupportedOption("num_atoms: only 1 is supported with distributional false (a sum over atoms)")
    return "scalar"


def _patch_size(options: Options) -> int:
    size = options.get("patch_size", 3)
    sides = [size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if not sides or any(side != sides[0] for side in sides):
        raise UnsupportedOption(f"patch_size: {size!r} is not supported, only squares")
    return count({"patch_size": sides[0]}, "patch_size")
