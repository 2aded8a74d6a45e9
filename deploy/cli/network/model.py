"""`apexpert model`: the network that a configuration describes."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from deploy.cli.errors import UsageError
from deploy.cli.parsing import as_typed
from deploy.cli.run.idle_flags import print_idle
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.config import Config, ConfigError
from deploy.run.preflight import with_checked_environment
from deploy.run.presets import DEFAULT, PRESETS
from models.config import NetworkConfig

if TYPE_CHECKING:
    from models.summary import LayerSummary, NetworkSummary


@dataclass(frozen=True)
class ModelOptions:
    """How to print."""

    json: bool = False
    """Print the network as JSON."""


@dataclass(frozen=True)
class ModelArguments(TrainArguments):
    """Print the network of a preset and flags: layers, tokens, experts, slots, parameters, FLOPs per state.

      apexpert model --preset paper-rainbow --game MsPacman --experts 8

    Accepts every flag of `apexpert train`; only those of network and environment matter. FLOPs count matmuls
    and convolutions, a multiply-add as two.
    """

    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def model(argv: Sequence[str]) -> int:
    """Print the network; return the exit code."""
    try:
        arguments = parse_config(ModelArguments, argv, command="model", default=lambda: PRESETS[DEFAULT])
        config = with_checked_environment(config_of(arguments))
    except (ConfigError, UsageError) as error:
        raise type(error)(as_typed(str(error), argv)) from None
    print_idle(config, argv)
    summary = summary_of(config)
    if arguments.model.json:
        print(
            json.dumps(
                dataclasses.asdict(summary) | {"network": dataclasses.asdict(config.network)}, indent=1
            )
        )
    else:
        _print(config, summary)
    return 0


def summary_of(config: Config) -> "NetworkSummary":
    """Summarise the network that a run with this (checked) configuration would have."""
    from actors.environments import describe_environment
    from models.q_network import build_network
    from models.summary import summarise

    spec = describe_environment(config.environment)
    shape = spec.observation_shape(config.environment.stack)
    return summarise(build_network(config.network, spec.num_actions, observation_shape=shape).eval())


def _print(config: Config, summary: "NetworkSummary") -> None:
    from rich.table import Table

    from deploy.monitor.terminal import print_whole

    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for name in ("output", "parameters", "FLOPs"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in summary.layers:
        table.add_row(*_row(layer), style="bold" if layer.is_part else "dim")
    print_whole(table)
    print()
    for name, value in facts(config, summary).items():
        print(f"  {name:<14} {value}")


def facts(config: Config, summary: "NetworkSummary") -> dict[str, str]:
    """Return facts to print beside the layers, by label."""
    network = config.network
    found = {
        "network": f"{network.encoder}, {network.head}, {summary.num_actions} actions ({config.game_name})",
        "tokens": f"{summary.num_tokens:,} x {summary.token_width:,} ({network.tokens})",
    }
    if (mixture := summary.mixture) is not None:
        chosen = f", k = {mixture.num_selected} per token" if mixture.num_selected else ""
        found |= {
            "experts": f"{mixture.num_experts}{chosen}, {mixture.hidden_units:,} hidden units each",
            "slots": f"{mixture.slots_per_expert:,} per expert,"
            f" {mixture.slots_per_expert * mixture.num_experts:,} in total",
        }
    found["values"] = values_line(network)
    parts = [
        f"{layer.name} {layer.parameters:,}" for layer in summary.layers if layer.is_part and layer.parameters
    ]
    found["parameters"] = f"{summary.parameters:,} ({', '.join(parts)})"
    if mixture is not None:
        found["of the head"] = (
            f"{mixture.parameters_per_expert:,} per expert, {mixture.parameters_of_routing:,} routing"
        )
    found["FLOPs/state"] = f"{summary.flops / 1e6:,.2f} million"
    if summary.flops_with_noise != summary.flops:
        found["FLOPs/state"] += f", {summary.flops_with_noise / 1e6:,.2f} million with noise"
    return found


def values_line(network: NetworkConfig) -> str:
    """Return a line about what is learned of an action's return."""
    return {
        "scalar": "scalar, one per action",
        "c51": f"c51, {network.num_atoms:,} atoms from {network.v_min:g} to {network.v_max:g} per action",
        "quantile": f"quantile, {network.num_quantiles:,} per action",
    }[network.values]


def _row(layer: "LayerSummary") -> tuple[str, ...]:
    shape = "-" if layer.output_shape is None else " x ".join(f"{size:,}" for size in layer.output_shape[1:])
    name = layer.name if layer.is_part else f"  {layer.name.partition('.')[2]}"
    return name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.flops:,}"
