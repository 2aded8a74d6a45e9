"""One update as a program of tensor operations: no number of it is read by the host while it runs.

So a team of threads can share it out, and a GPU can capture it once and replay it. Shapes: B batch.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.update import losses
from learner.update.flat_parameters import pack
from learner.update.optimizer import FlatAdam, clipping
from learner.update.precision import ComputeCopy
from learner.update.priorities import sample_priorities
from learner.update.sparsity import SparseWeights
from learner.update.work import NO_NOISE, NextValues, SharePart, TensorBatch, UpdateNoise
from models.q_network import NetworkOutput, QNetwork
from models.values.noisy import Noise


class Update:
    """Online and target network, optimizer, and the steps of the algorithm between them.

    A batch comes in `num_shares` parts, whose gradients are summed; the flat parameters, in `num_parts`.
    """

    def __init__(
        self,
        network: QNetwork,
        config: LearnerConfig,
        dtype: torch.dtype,
        *,
        seed: int,
        num_shares: int = 1,
        num_parts: int = 1,
    ) -> None:
        """`network` is float32 and on its device; `dtype` is what both passes compute in."""
        self.config, self.dtype = config, dtype
        self.online_network = network
        self.target_network = copy.deepcopy(network).requires_grad_(False)
        self._noise_per_row = network.config.noise_per == "row"
        self._online_flat, self._target_flat = pack(self.online_network), pack(self.target_network)
        self._online = ComputeCopy(self.online_network, self._online_flat, dtype)
        self._target = ComputeCopy(self.target_network, self._target_flat, dtype)
        self.optimizer = FlatAdam(self._online_flat, config, num_parts)
        self._buffers = [self._online.gradient_buffer() for _ in range(num_shares)]
        self.sparsity = SparseWeights(self.online_network, self._online, self.optimizer, seed)
        self.copy_target()  # With the zeros.

    def sample_noise(self, generator: torch.Generator, rows: int) -> UpdateNoise:
        """Draw the noise of the online network's forward passes over a batch of so many rows.

        `NetworkConfig.noise_per` says who shares it; a noisy router's is always that of each row.
        """
        if self._noise_per_row:  # The chooser shares the target network's draw.
            return UpdateNoise(self.online_network.sample_noise(generator, rows, routed_rows=rows))
        draws = (self.online_network.sample_noise(generator, routed_rows=rows) for _ in range(2))
        return UpdateNoise(*draws)

    def sample_target_noise(self, generator: torch.Generator, rows: int) -> Noise | None:
        """Draw the noise of the target network's pass over a batch; all rows share it."""
        return self.target_network.sample_noise(generator, routed_rows=rows)

    @torch.no_grad()
    def next_values(self, data: TensorBatch, noise: Noise | None = None) -> NextValues:
        """Return the target network's values of the next observations."""
        image = self._target.network.to_image(data.next_observation)
        output: NetworkOutput = self._target.network(image, noise)
        return NextValues(image, output.q_values, output.logits, output.quantiles, noise)

    @torch.no_grad()
    def target(
        self, data: TensorBatch, noise: UpdateNoise = NO_NOISE, next_values: NextValues | None = None
    ) -> Tensor:
        """Compute what the loss regresses to: (B, Z) distributions or quantiles, or (B,) values.

        Without noise if none is given.
        """
        known = self.next_values(data, noise.target) if next_values is None else next_values
        chosen_with = known.noise if self._noise_per_row else noise.chooser
        chooser = self._online.network(known.image, chosen_with).q_values if self.config.double else None
        action = losses.next_action(known.q_values, chooser)
        if known.quantiles is not None:
            return losses.quantile_target(known.quantiles, action, data.reward, data.discount)
        if known.logits is None:
            return losses.scalar_target(known.q_values, action, data.reward, data.discount)
        support = self._target.network.support
        return losses.c51_target(known.logits, action, data.reward, data.discount, support)

    def differentiate(
        self, share: int, data: TensorBatch, noise: UpdateNoise, next_values: NextValues, scale: float
    ) -> SharePart:
        """Return one share's losses; leave the gradient of `scale` times their weighted sum in its buffer."""
        target = self.target(data, noise, next_values)
        # The passes below need its place in the cache, so the caller must keep no reference either.
        del next_values
        output: NetworkOutput = self._online.network(data.observation, noise.online)
        sample_losses = losses.sample_losses(output, data.action, target, self.config.loss)
        weighted = data.importance_weight * sample_losses
        if output.moe is not None and output.moe.auxiliary_loss is not None:
            weighted = weighted + output.moe.auxiliary_loss  # Not weighted by importance (docs/arms.md).
        total = scale * weighted.sum()  # The sum over all shares is the batch's mean.
        # A user's own encoder or head may have a parameter that this batch does not reach.
        gradients = torch.autograd.grad(total, self._online.parameters, materialize_grads=True)
        torch._foreach_copy_(self._buffers[share][1], gradients)
        self.sparsity.hold(self._buffers[share][0])
        with torch.no_grad():
            support = self._online.network.support
            kind = self.config.priority
            priorities = sample_priorities(kind, output, data.action, target, sample_losses, support)
        return SharePart(priorities.detach(), weighted.detach(), output.q_values.detach())

    @torch.no_grad()
    def add_up(self, part: int, num_shares: int) -> Tensor:
        """Sum one part of the gradient over the shares, in float32; return its L2 norm ()."""
        where = self.optimizer.slices[part]
        gradient = self.optimizer.gradient[where]
        gradient.copy_(self._buffers[0][0][where])
        for buffer, _ in self._buffers[1:num_shares]:
            gradient.add_(buffer[where])
        norm: Tensor = torch.linalg.vector_norm(gradient)
        return norm

    @torch.no_grad()
    def judge(self, parts: Sequence[SharePart], norms: Sequence[Tensor]) -> Tensor:
        """Pack an update's result as `UpdateResult.unpack` takes it, from its shares and its parts' norms."""
        priorities, weighted, q_values = (torch.cat(columns) for columns in zip(*parts, strict=True))
        loss, norm = weighted.mean(), torch.linalg.vector_norm(torch.stack(list(norms)))
        spared = 1.0 - (loss.isfinite() & norm.isfinite()).float()
        numbers = torch.stack([loss, q_values.mean(), norm, spared])
        return torch.cat([priorities.float(), numbers])

    @torch.no_grad()
    def apply(self, part: int, packed: Tensor) -> None:
        """Step one part of the weights by the summed gradient, unless the result says that it is spared."""
        norm, spared = packed[-2:].unbind()
        if self.config.max_grad_norm:
            self.optimizer.gradient[self.optimizer.slices[part]].mul_(
                clipping(norm, self.config.max_grad_norm)
            )
        self.optimizer.step(part, spared)
        self._online.refresh(self.optimizer.slices[part])

    def update(
        self, data: TensorBatch, generator: torch.Generator, target_generator: torch.Generator
    ) -> Tensor:
        """Make one whole update on a batch, in one share and one part; return its packed result (B + 4,)."""
        rows = len(data.action)
        noise = self.sample_noise(generator, rows)
        next_values = self.next_values(data, self.sample_target_noise(target_generator, rows))
        part = self.differentiate(0, data, noise, next_values, 1.0 / rows)
        packed = self.judge([part], [self.add_up(0, 1)])
        self.apply(0, packed)
        return packed

    def changing(self) -> list[Tensor]:
        """Return everything that an update changes, but for the copies that `refresh` makes."""
        return [self._online_flat, *self.optimizer.changing()]

    def copy_target(self) -> None:
        """Copy the online network's weights into the target network."""
        with torch.no_grad():
            self._target_flat.copy_(self._online_flat)
        self._target.refresh()

    def refresh(self) -> None:
        """Have both passes compute with the float32 weights as they are now."""
        self._online.refresh()
        self._target.refresh()
