"""Summarise a network: layers with their output shapes, parameters, and FLOPs per state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.arrays import num_parameters
from models.mixtures.experts import Experts
from models.mixtures.heads import MoEHead
from models.mixtures.sparse_moe import TopKMoE
from models.q_network import QNetwork
from models.values.noisy import Noise


@dataclass(frozen=True)
class LayerSummary:
    """One part of the network (encoder, tokenizer, head, output), or a module in it with parameters."""

    name: str
    """Its path in the network, such as `encoder.convolutions.0`."""
    kind: str
    """The name of its class."""
    output_shape: tuple[int, ...] | None
    """For one state, with its batch dimension 1 first; None if the forward pass does not call it."""
    parameters: int
    """For a part: all parameters in it. For a module: its own, without those of modules in it."""
    flops: int
    """Counted like `parameters`, for one state's forward pass with noise off."""
    is_part: bool


@dataclass(frozen=True)
class MixtureSummary:
    """The mixture of experts in the head."""

    num_experts: int
    num_selected: int | None
    """Experts that a Top-k mixture chooses for each token (k); None for the others."""
    slots_per_expert: int
    hidden_units: int
    """Hidden units of each expert."""
    parameters_per_expert: int
    parameters_of_routing: int
    """Parameters of phi and its scale, or of the router's kernel."""


@dataclass(frozen=True)
class NetworkSummary:
    """A whole network. FLOPs count a multiply-add as two, and only matmuls and convolutions."""

    layers: list[LayerSummary]
    """In the order of the forward pass; each part is followed by the modules in it."""
    feature_map: tuple[int, int, int]
    """(C, h, w) of the encoder's output."""
    num_tokens: int
    token_width: int
    num_actions: int
    mixture: MixtureSummary | None
    """None if the head is not a mixture of experts."""
    parameters: int
    flops: int
    """One state's forward pass, noise off: evaluation."""
    flops_with_noise: int
    """One state's forward pass with its own draw of noise: acting. Equal to `flops` without noise."""


@dataclass
class _Calls:
    """Counts made during a forward pass."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    total: int = 0


def summarise(network: QNetwork) -> NetworkSummary:
    """Pass one state of zeros through the network (float32, on the CPU) and report what was observed.

    FLOPs are counted by torch's own `FlopCounterMode`, which leaves out element-wise operations,
    softmaxes and pools.
    """
    calls = _observe(network, None)
    noise = network.sample_noise(torch.Generator().manual_seed(0), 1)
    noisy = calls if noise is None else _observe(network, noise)
    channels, height, width = calls.shapes["encoder"][1:]
    return NetworkSummary(
        layers=list(_layers(network, calls)),
        feature_map=(channels, height, width),
        num_tokens=network.tokenizer.num_tokens,
        token_width=network.tokenizer.width,
        num_actions=network.num_actions,
        mixture=_mixture(network),
        parameters=num_parameters(network),
        flops=calls.total,
        flops_with_noise=noisy.total,
    )


def flops_of(network: QNetwork) -> int:
    """Return the FLOPs of one state's forward pass, noise off, counted as `summarise` counts them."""
    return _observe(network, None).total


def _layers(network: QNetwork, calls: _Calls) -> Iterator[LayerSummary]:
    for part_name, part in network.named_children():
        yield _layer(part_name, part, calls, is_part=True)
        for name, module in part.named_modules(prefix=part_name):
            if module is not part and list(module.parameters(recurse=False)):
                yield _layer(name, module, calls, is_part=False)


def _layer(name: str, module: nn.Module, calls: _Calls, *, is_part: bool) -> LayerSummary:
    flops = calls.flops.get(name, 0)
    if not is_part:
        # The counter adds the FLOPs of inner modules to those of the modules around them.
        flops -= sum(calls.flops.get(f"{name}.{inner}", 0) for inner in _inner_with_parameters(module))
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        output_shape=calls.shapes.get(name),
        parameters=sum(p.numel() for p in module.parameters(recurse=is_part)),
        flops=flops,
        is_part=is_part,
    )


def _inner_with_parameters(module: nn.Module) -> Iterator[str]:
    """Yield the outermost modules inside that have rows of their own."""
    for name, child in module.named_children():
        if list(child.parameters(recurse=False)):
            yield name
        else:
            yield from (f"{name}.{inner}" for inner in _inner_with_parameters(child))


def _mixture(network: QNetwork) -> MixtureSummary | None:
    if not isinstance(network.head, MoEHead):
        return None
    moe = network.head.moe
    in_experts = num_parameters(moe.experts)
    return MixtureSummary(
        num_experts=moe.num_experts,
        num_selected=moe.num_selected if isinstance(moe, TopKMoE) else None,
        slots_per_expert=moe.num_slots,
        hidden_units=network.config.hidden_of_an_expert,
        parameters_per_expert=in_experts // moe.num_experts,
        parameters_of_routing=num_parameters(moe) - in_experts,
    )


def _observe(network: QNetwork, noise: Noise | None) -> _Calls:
    """Return shapes and FLOPs of one forward pass, by path in the network."""
    calls = _Calls()
    counter = FlopCounterMode(display=False)
    state = torch.zeros(1, *network.observation_shape, dtype=torch.uint8)
    with _recording(network, calls.shapes), torch.no_grad(), counter:
        network(state, noise)
    top = type(network).__name__
    for path, counts in counter.get_flop_counts().items():
        calls.flops[path.removeprefix(f"{top}.")] = sum(counts.values())
    calls.total = counter.get_total_flops()
    return calls


@contextmanager
def _recording(network: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Iterator[None]:
    """Note the shape of the first output tensor of every module."""

    def noted(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            # Experts compute with the expert axis first; the summary shows the batch first.
            if isinstance(module, Experts):
                first = first.transpose(0, 1)
            if isinstance(first, Tensor):
                shapes[name] = tuple(first.shape)

        return hook

    handles = [module.register_forward_hook(noted(name)) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
