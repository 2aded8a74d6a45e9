"""One update of the online network from a replay batch."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner import losses
from learner.config import LearnerConfig
from learner.flat_parameters import pack, views
from learner.optimizer import build_optimizer, optimizer_state, restore_optimizer
from models.arrays import flatten
from models.config import NetworkConfig
from models.noisy import Noise
from models.q_network import NetworkOutput, QNetwork, build_network
from replay.types import Batch


@dataclass(frozen=True)
class UpdateResult:
    """What one update saw: before the weights moved."""

    priorities: NDArray[np.float32]
    """(B,) raw priorities: the loss of each sample, not weighted."""
    loss: float
    """Mean of importance weight times loss; not finite if something broke, and then no weight was changed."""
    q_mean: float
    """Mean of the online network's values over batch and actions."""
    grad_norm: float
    """L2 norm of the whole gradient."""


class TensorBatch(NamedTuple):
    """The part of a `Batch` that the update reads, on its device; observations uint8, the rest (B,)."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Tensor
    importance_weight: Tensor


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device a `LearnerConfig.device` means on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def choose_dtype(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """What forward and backward compute in; `auto` takes bfloat16 where the hardware multiplies it."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class ComputeCopy:
    """The network that computes: the float32 network itself, or a copy of it in a smaller dtype.

    Casting all weights once an update is cheaper than autocast, which casts them in each of the three forward
    passes, and rounds the same numbers in the same places.
    """

    def __init__(self, network: QNetwork, flat: Tensor, dtype: torch.dtype) -> None:
        self._source = flat
        self._flat = flat
        self.network = network
        if dtype != flat.dtype:
            self.network = copy.deepcopy(network).to(dtype)
            self._flat = pack(self.network)
        self.parameters = list(self.network.parameters())

    def refresh(self) -> None:
        """Take over the float32 weights as they are now."""
        if self._flat is not self._source:
            with torch.no_grad():
                self._flat.copy_(self._source)


class TrainStep:
    """Online and target network, optimizer and noise; `step` makes one update of the algorithm.

    Not thread-safe. It draws from its own generator only. On a CPU its updates are reproducible bit by bit
    for the same number of threads, also over `state` and `restore`.
    """

    def __init__(
        self,
        network_config: NetworkConfig,
        config: LearnerConfig,
        *,
        num_actions: int,
        observation_shape: tuple[int, int, int] = (4, 84, 84),
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.config = config
        self.num_actions = num_actions
        self.observation_shape = observation_shape
        self.device = choose_device(config.device) if device is None else torch.device(device)
        self.dtype = choose_dtype(config.precision, self.device)
        network = build_network(network_config, num_actions, observation_shape=observation_shape, seed=seed)
        self.online_network = network.to(self.device)
        self.target_network = copy.deepcopy(self.online_network).requires_grad_(False)
        self._online_flat, self._target_flat = pack(self.online_network), pack(self.target_network)
        self._online = ComputeCopy(self.online_network, self._online_flat, self.dtype)
        self._target = ComputeCopy(self.target_network, self._target_flat, self.dtype)
        self.optimizer = build_optimizer(self._online_flat, config)
        assert self._online_flat.grad is not None
        self._gradients = views(self.online_network, self._online_flat.grad)
        (noise_seed,) = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)
        self._generator = torch.Generator(self.device).manual_seed(int(noise_seed >> np.uint64(1)))

    def step(self, batch: Batch) -> UpdateResult:
        """One update: target, loss, gradient, Adam. A loss that is not finite changes no weight."""
        data = self.to_device(batch)
        target = self.target(data)
        output = self._online.network(data.observation, self._noise())
        sample_losses = self._sample_losses(output, data, target)
        loss = (data.importance_weight * sample_losses).mean()
        gradients = torch.autograd.grad(loss, self._online.parameters)
        with torch.no_grad():
            torch._foreach_copy_(self._gradients, gradients)
            assert self._online_flat.grad is not None
            grad_norm = torch.linalg.vector_norm(self._online_flat.grad)
            scalars = torch.stack([loss.detach(), output.q_values.mean(), grad_norm]).tolist()
        if math.isfinite(scalars[0]):
            self.optimizer.step()
            self._online.refresh()
        return UpdateResult(sample_losses.detach().cpu().numpy(), *scalars)

    def copy_target(self) -> None:
        """Copy the online network's weights into the target network."""
        with torch.no_grad():
            self._target_flat.copy_(self._online_flat)
        self._target.refresh()

    def gradients(self) -> dict[str, Tensor]:
        """The last update's gradient by parameter name: float32 views, overwritten by the next update."""
        return dict(zip(dict(self.online_network.named_parameters()), self._gradients, strict=True))

    def parameters(self) -> NDArray[np.float32]:
        """The online network's weights as one new array (P,), in the order of `models.arrays.flatten`."""
        return flatten(self.online_network)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of all that later updates depend on, on the CPU, and a JSON-able document about them.

        Tensors: `online/<parameter>`, `target/<parameter>`, `optimizer/...`, `noise_generator` (uint8).
        """
        tensors = {"noise_generator": self._generator.get_state()}
        for prefix, network in (("online", self.online_network), ("target", self.target_network)):
            for name, parameter in network.named_parameters():
                tensors[f"{prefix}/{name}"] = parameter.detach().cpu().contiguous().clone()
        for name, tensor in optimizer_state(self.optimizer, self.online_network).items():
            tensors[f"optimizer/{name}"] = tensor.cpu()
        return tensors, {
            "num_threads": torch.get_num_threads(),
            "dtype": str(self.dtype),
            "torch": torch.__version__,
        }

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any] | None = None) -> None:
        """Inverse of `state`; other tensors in the mapping are ignored. Raises KeyError for a missing one."""
        del (
            document
        )  # Says under which threads and dtype the updates that follow are bit-identical; for people.
        with torch.no_grad():
            for prefix, network in (("online", self.online_network), ("target", self.target_network)):
                for name, parameter in network.named_parameters():
                    parameter.copy_(tensors[f"{prefix}/{name}"])
            prefix = "optimizer/"
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            restore_optimizer(self.optimizer, self.online_network, own)
        self._generator.set_state(tensors["noise_generator"].to(torch.uint8).cpu())
        self._online.refresh()
        self._target.refresh()

    def _noise(self) -> Noise | None:
        return self.online_network.sample_noise(self._generator)

    def to_device(self, batch: Batch) -> TensorBatch:
        """The batch's arrays as tensors on the device; on the CPU they share the arrays' memory."""
        tensors = [torch.from_numpy(getattr(batch, name)) for name in TensorBatch._fields]
        if self.device.type == "cuda":
            tensors = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
        return TensorBatch(*tensors)

    @torch.no_grad()
    def target(self, data: TensorBatch) -> Tensor:
        """What the loss regresses to: (B, Z) distributions or (B,) values."""
        judge: NetworkOutput = self._target.network(data.next_observation, self._noise())
        chooser = (
            self._online.network(data.next_observation, self._noise()).q_values
            if self.config.double
            else None
        )
        action = losses.next_action(judge.q_values, chooser)
        if judge.logits is None:
            return losses.huber_target(judge.q_values, action, data.reward, data.discount)
        support = self._target.network.support
        return losses.c51_target(judge.logits, action, data.reward, data.discount, support)

    @staticmethod
    def _sample_losses(output: NetworkOutput, data: TensorBatch, target: Tensor) -> Tensor:
        if output.logits is None:
            return losses.huber_loss(output.q_values, data.action, target)
        return losses.c51_loss(output.logits, data.action, target)
