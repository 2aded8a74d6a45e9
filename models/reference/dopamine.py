"""Convert parameters between the reference code (Dopamine's labs/moes, flax) and a `QNetwork`.

Flax paths are joined with slashes, as `params/encoder/_stacks_0/Conv_0/kernel`. Its kernels are
(height, width, in, out) and (in, out), with those of experts stacked in front. Its dueling streams
are two layers, the advantages before the value.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import NetworkConfig
from models.encoders.convolution import Convolution
from models.encoders.impala import ImpalaEncoder
from models.mixtures.heads import DenseHead, MoEHead
from models.mixtures.soft_moe import SoftMoE
from models.q_network import QNetwork
from models.values.noisy import NoisyLinear

Arrays = dict[str, NDArray[np.float32]]
NOISY_NAMES = {
    "weight": "kernel_mu",
    "bias": "bias_mu",
    "weight_sigma": "kernel_sigma",
    "bias_sigma": "bias_sigma",
}
PLAIN_NAMES = {"weight": "kernel", "bias": "bias"}
# Used only if tokens and phi are normalised, but always present: else ignored when read and written as 1.
SOFT_MOE_SCALE = "params/SoftMoE_0/scalar"

LACKING = ("residual", "centered_kernels", "phi", "shuffle", "sparsity")
"""Options without parameters of their own, with which the same parameters would be another network or arm."""


class Layout(NamedTuple):
    """How one array of the reference is laid out in our parameter."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor]


SAME = Layout(lambda array: array, lambda parameter: parameter)
TRANSPOSED = Layout(lambda array: array.T, lambda parameter: parameter.T)
CONVOLUTION = Layout(lambda a: a.permute(3, 2, 0, 1), lambda p: p.permute(2, 3, 1, 0))
EXPERT_BIAS = Layout(lambda array: array.unsqueeze(1), lambda parameter: parameter.squeeze(1))


class Entry(NamedTuple):
    """A parameter of ours and its reference arrays: several are stacked along our first axis, of `sizes`."""

    name: str
    paths: list[str]
    layout: Layout
    sizes: list[int] | None = None


def load_dopamine(
    network: QNetwork, arrays: Mapping[str, NDArray[np.generic]], *, agent: str | None = None
) -> None:
    """Copy the reference's parameters (any float dtype) into the network.

    `agent` is dqn or rainbow, the reference's network that the names come from; None means rainbow
    for C51, else dqn, whose names the reference's quantile network uses, too. Raises KeyError for a
    parameter that is missing, ValueError for a parameter of another shape or that the network
    lacks.
    """
    unused = set(arrays)
    values: dict[str, Tensor] = {}
    parameters = dict(network.named_parameters())
    for entry in _entries(network, agent):
        unused -= set(entry.paths)
        parts = [_read(arrays, path) for path in entry.paths]
        wanted = [tuple(part.shape) for part in _parts(entry, parameters[entry.name])]
        for path, part, shape in zip(entry.paths, parts, wanted, strict=True):
            if part.shape != shape:
                raise ValueError(f"{path}: shape {tuple(part.shape)}, the network has {shape}")
        values[entry.name] = torch.cat([entry.layout.read(part) for part in parts])
    if _is_soft_moe(network) and SOFT_MOE_SCALE in unused:
        unread = _read(arrays, SOFT_MOE_SCALE)
        if unread.shape != (1,) or not unread.isfinite().all():
            raise ValueError(f"{SOFT_MOE_SCALE}: not one finite number")
        unused.discard(SOFT_MOE_SCALE)
    if unused:
        raise ValueError(f"{min(unused)}: the network has no such parameter")
    network.load_state_dict(values, strict=True)


def to_dopamine(
    network: QNetwork, values: Mapping[str, Tensor] | None = None, *, agent: str | None = None
) -> Arrays:
    """Return parameters under the reference's paths and shapes, float32: the inverse of `load_dopamine`.

    `values` (by parameter name) replaces the parameters, for instance to rename gradients.
    """
    source = values if values is not None else dict(network.named_parameters())
    arrays: Arrays = {}
    for entry in _entries(network, agent):
        for path, part in zip(entry.paths, _parts(entry, source[entry.name]), strict=True):
            arrays[path] = part.detach().float().cpu().contiguous().numpy()
    if _is_soft_moe(network) and SOFT_MOE_SCALE not in arrays:
        # The scale is unused: 1 as a parameter, 0 among other values, such as gradients.
        arrays[SOFT_MOE_SCALE] = np.full(1, 1.0 if values is None else 0.0, np.float32)
    return arrays


def _read(arrays: Mapping[str, NDArray[np.generic]], path: str) -> Tensor:
    if path not in arrays:
        raise KeyError(f"{path}: is missing")
    if arrays[path].dtype.kind not in "fiu":
        raise ValueError(f"{path}: {arrays[path].dtype}, not real numbers")
    return torch.from_numpy(np.array(arrays[path], dtype=np.float32))


def _parts(entry: Entry, parameter: Tensor) -> list[Tensor]:
    """Return the reference's arrays that our parameter consists of."""
    stacked = [parameter] if entry.sizes is None else torch.split(parameter, entry.sizes)
    return [entry.layout.write(part) for part in stacked]


def _is_soft_moe(network: QNetwork) -> bool:
    return isinstance(network.head, MoEHead) and isinstance(network.head.moe, SoftMoE)


def _entries(network: QNetwork, agent: str | None) -> Iterator[Entry]:
    """Yield an entry for every parameter; raises ValueError for what the reference lacks."""
    for option in LACKING:
        if getattr(network.config, option) != getattr(NetworkConfig, option):
            raise ValueError(f"{option}: the reference has no such option")
    if network.config.head == "expert_choice":
        raise ValueError("head expert_choice: the reference has a name for it, but no code")
    agent = agent or ("rainbow" if network.config.values == "c51" else "dqn")
    entries = [*_convolutions(network, agent), *_mixture(network), *_linear_layers(network)]
    foreign = {name for name, _ in network.named_parameters()} - {entry.name for entry in entries}
    if foreign:
        raise ValueError(f"{min(foreign)}: the reference has no such parameter")
    yield from entries


def _convolutions(network: QNetwork, agent: str) -> Iterator[Entry]:
    encoder = network.encoder
    names = [name for name, module in encoder.named_modules() if isinstance(module, Convolution)]
    # The reference's Nature DQN network has its convolutions at the top level.
    scope = "params/encoder/" if agent == "rainbow" else "params/"
    pairs = [(f"encoder.{name}", f"{scope}Conv_{index}") for index, name in enumerate(names)]
    if isinstance(encoder, ImpalaEncoder):
        # A stack has five convolutions: the first, and two in each of two residual blocks.
        paths = [f"params/encoder/_stacks_{index // 5}/Conv_{index % 5}" for index in range(len(names))]
        pairs = [(f"encoder.{name}", path) for name, path in zip(names, paths, strict=True)]
    if network.tokenizer.embedding is not None:
        pairs.append(("tokenizer.embedding", "params/embedding"))
    for name, path in pairs:
        yield Entry(f"{name}.weight", [f"{path}/kernel"], CONVOLUTION)
        yield Entry(f"{name}.bias", [f"{path}/bias"], SAME)


def _mixture(network: QNetwork) -> Iterator[Entry]:
    """Yield the experts and the routing of a mixture; nothing for another head."""
    if not isinstance(network.head, MoEHead):
        return
    moe, path = network.head.moe, "params/ExpertModel_0"
    for ours, leaf in (NOISY_NAMES if moe.experts.noisy else PLAIN_NAMES).items():
        what, _, sigma = ours.partition("_")
        name = f"head.moe.experts.{what}_in{'_sigma' if sigma else ''}"
        yield Entry(name, [f"{path}/net/{leaf}"], EXPERT_BIAS if what == "bias" else SAME)
    yield Entry("head.moe.experts.weight_out", [f"{path}/Dense_0/kernel"], SAME)
    yield Entry("head.moe.experts.bias_out", [f"{path}/Dense_0/bias"], EXPERT_BIAS)
    if not isinstance(moe, SoftMoE):
        yield Entry("head.moe.router", ["params/MoE_0/router/Dense_0/kernel"], SAME)
        return
    slots = (-1, moe.num_experts, moe.num_slots)
    # Theirs is (D, E, S), ours (D, E * S).
    phi = Layout(lambda array: array.flatten(1), lambda parameter: parameter.reshape(slots))
    yield Entry("head.moe.phi", ["params/SoftMoE_0/phi_weights"], phi)
    if moe.scale is not None:
        yield Entry("head.moe.scale", [SOFT_MOE_SCALE], SAME)


def _linear_layers(network: QNetwork) -> Iterator[Entry]:
    """Yield the dense layers, numbered in the order in which the reference creates them."""
    noisy = isinstance(network.output.linear, NoisyLinear)
    layer, names = ("NoisyNetwork", NOISY_NAMES) if noisy else ("Dense", PLAIN_NAMES)
    first = 0
    if isinstance(network.head, DenseHead):
        for ours, leaf in names.items():
            yield _linear(f"head.hidden.{ours}", [f"params/{layer}_0/{leaf}"])
        first = 1
    # Our parameter has the value's rows first.
    streams = [first + 1, first] if network.output.dueling else [first]
    sizes = None
    if network.output.dueling:
        sizes = [network.output.num_atoms, network.num_actions * network.output.num_atoms]
    for ours, leaf in names.items():
        yield _linear(f"output.linear.{ours}", [f"params/{layer}_{index}/{leaf}" for index in streams], sizes)


def _linear(name: str, paths: list[str], sizes: list[int] | None = None) -> Entry:
    return Entry(name, paths, TRANSPOSED if "weight" in name else SAME, sizes)
