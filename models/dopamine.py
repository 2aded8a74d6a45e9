"""Parameters of the reference code (Dopamine's labs/moes, flax) to and from a `QNetwork`.

Flax paths are joined with slashes, as `params/encoder/_stacks_0/Conv_0/kernel`. Its kernels are (height,
width, in, out) and (in, out); its dueling streams are two layers, `Dense_0` the advantages and `Dense_1` the
value. Its Soft MoE has a `scalar` that only its optional normalisation reads: it is ignored here and written
as 1.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encoders import Convolution, ImpalaEncoder
from models.heads import SoftMoEHead
from models.noisy import NoisyLinear
from models.q_network import QNetwork

Arrays = dict[str, NDArray[np.float32]]
NOISY_NAMES = {
    "weight": "kernel_mu",
    "bias": "bias_mu",
    "weight_sigma": "kernel_sigma",
    "bias_sigma": "bias_sigma",
}
PLAIN_NAMES = {"weight": "kernel", "bias": "bias"}


def load_dopamine(network: QNetwork, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Copy the reference's parameters (any float dtype) into the network.

    Raises KeyError for a parameter that is missing, ValueError for one of another shape.
    """
    network.load_state_dict(_from_dopamine(network, arrays), strict=True)


def _from_dopamine(network: QNetwork, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    def read(path: str) -> Tensor:
        return torch.from_numpy(np.asarray(arrays[path], dtype=np.float32).copy())

    state: dict[str, Tensor] = {}
    for name, path in _convolutions(network, arrays):
        state[f"{name}.weight"] = read(f"{path}/kernel").permute(3, 2, 0, 1)
        state[f"{name}.bias"] = read(f"{path}/bias")
    for name, path in _expert_parameters(network):
        value = read(path)
        state[name] = value.unsqueeze(1) if value.ndim == 2 else value
    if isinstance(network.head, SoftMoEHead):
        state["head.soft_moe.phi"] = read("params/SoftMoE_0/phi_weights").flatten(1)
    for name, paths in _linear_layers(network):
        for parameter, leaf in _linear_names(network, name).items():
            value = torch.cat([read(f"{path}/{leaf}") for path in paths], dim=-1)
            state[f"{name}.{parameter}"] = value.T if value.ndim == 2 else value
    return state


def to_dopamine(
    network: QNetwork, values: Mapping[str, Tensor] | None = None, *, encoder_scope: str = "encoder/"
) -> Arrays:
    """Inverse of `load_dopamine`: parameters under the reference's paths and shapes, float32.

    `values` (by parameter name) takes the place of the parameters, to rename gradients for instance.
    `encoder_scope` is "" for the reference's Nature DQN network, whose convolutions stand at the top.
    """
    source = values if values is not None else dict(network.named_parameters())
    arrays: Arrays = {}

    def write(path: str, value: Tensor) -> None:
        arrays[path] = value.detach().float().cpu().contiguous().numpy()

    for name, path in _convolutions(network, None, encoder_scope):
        write(f"{path}/kernel", source[f"{name}.weight"].permute(2, 3, 1, 0))
        write(f"{path}/bias", source[f"{name}.bias"])
    for name, path in _expert_parameters(network):
        write(path, source[name].squeeze(1) if "bias" in name else source[name])
    if isinstance(network.head, SoftMoEHead):
        phi = source["head.soft_moe.phi"]
        write("params/SoftMoE_0/phi_weights", phi.view(len(phi), network.head.soft_moe.num_experts, -1))
        write("params/SoftMoE_0/scalar", torch.full((1,), 1.0 if values is None else 0.0))
    for name, paths in _linear_layers(network):
        for parameter, leaf in _linear_names(network, name).items():
            value = source[f"{name}.{parameter}"]
            for path, part in zip(
                paths, torch.split(value, _stream_sizes(network, value, len(paths))), strict=True
            ):
                write(f"{path}/{leaf}", part.T if part.ndim == 2 else part)
    return arrays


def _convolutions(
    network: QNetwork, arrays: Mapping[str, NDArray[np.generic]] | None, scope: str = "encoder/"
) -> Iterator[tuple[str, str]]:
    """Names of our convolutions with the reference's paths."""
    names = [n for n, module in network.encoder.named_modules() if isinstance(module, Convolution)]
    if isinstance(network.encoder, ImpalaEncoder):
        for index, name in enumerate(names):
            yield f"encoder.{name}", f"params/encoder/_stacks_{index // 5}/Conv_{index % 5}"
        return
    if arrays is not None and "params/Conv_0/kernel" in arrays:
        scope = ""
    for index, name in enumerate(names):
        yield f"encoder.{name}", f"params/{scope}Conv_{index}"


def _expert_parameters(network: QNetwork) -> Iterator[tuple[str, str]]:
    if not isinstance(network.head, SoftMoEHead):
        return
    prefix, path = "head.soft_moe.experts", "params/ExpertModel_0"
    names = NOISY_NAMES if network.head.soft_moe.experts.noisy else PLAIN_NAMES
    for ours, leaf in names.items():
        kind, _, sigma = ours.partition("_")
        yield f"{prefix}.{kind}_in{'_sigma' if sigma else ''}", f"{path}/net/{leaf}"
    yield f"{prefix}.weight_out", f"{path}/Dense_0/kernel"
    yield f"{prefix}.bias_out", f"{path}/Dense_0/bias"


def _linear_layers(network: QNetwork) -> Iterator[tuple[str, list[str]]]:
    """Our linear layers with the reference's: the output layer is its value and its advantage layer."""
    kind = "NoisyNetwork" if isinstance(network.output.linear, NoisyLinear) else "Dense"
    first = 0
    if not isinstance(network.head, SoftMoEHead):
        yield "head.hidden", [f"params/{kind}_0"]
        first = 1
    streams = [first + 1, first] if network.output.dueling else [first]
    yield "output.linear", [f"params/{kind}_{index}" for index in streams]


def _linear_names(network: QNetwork, name: str) -> dict[str, str]:
    return NOISY_NAMES if isinstance(network.get_submodule(name), NoisyLinear) else PLAIN_NAMES


def _stream_sizes(network: QNetwork, value: Tensor, streams: int) -> list[int]:
    atoms = network.output.num_atoms
    return [len(value)] if streams == 1 else [atoms, len(value) - atoms]
