"""One update of the online network from a replay batch."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.config import LearnerConfig
from learner.update import losses
from learner.update.flat_parameters import named_views, pack
from learner.update.optimizer import FlatAdam, clipping
from learner.update.precision import ComputeCopy, choose_device
from learner.update.priorities import sample_priorities
from learner.update.sparsity import SparseWeights
from learner.update.thread_team import ThreadTeam
from learner.update.work import (
    NO_NOISE,
    NextValues,
    SharePart,
    SplitBatch,
    TensorBatch,
    UpdateNoise,
    UpdateResult,
    result_of,
)
from models.arrays import flatten
from models.config import NetworkConfig
from models.memory import keep_freed_memory
from models.precision import choose_dtype
from models.q_network import NetworkOutput, build_network
from models.summary import flops_of
from models.values.noisy import Noise
from replay.types import Batch


class TrainStep:
    """Online and target network, optimizer and noise; `step` makes one update of the algorithm.

    Not thread-safe, though on a CPU it shares the batch out to a team of threads. It draws from its own
    generator only. On a CPU its updates are reproducible bit by bit for the same number of threads, also over
    `state` and `restore`: `config.cpus`, or torch's own number when the object is built.
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
        self._noise_per_row = network_config.noise_per == "row"
        threads = config.cpus or torch.get_num_threads()
        network = build_network(network_config, num_actions, observation_shape=observation_shape, seed=seed)
        self._team = ThreadTeam(1, threads)
        if self.device.type == "cpu":
            keep_freed_memory()
            self._team = ThreadTeam.for_batch(threads, config.batch_size, flops_of(network))
        self.online_network = network.to(self.device)
        self.target_network = copy.deepcopy(self.online_network).requires_grad_(False)
        self._online_flat, self._target_flat = pack(self.online_network), pack(self.target_network)
        self._online = ComputeCopy(self.online_network, self._online_flat, self.dtype)
        self._target = ComputeCopy(self.target_network, self._target_flat, self.dtype)
        self.optimizer = FlatAdam(self._online_flat, config, self._team.size)
        self._buffers = [self._online.gradient_buffer() for _ in range(self._team.num_shares)]
        seeds = np.random.SeedSequence([seed, 1]).generate_state(2, np.uint64) >> np.uint64(1)
        self._generators = [
            torch.Generator(self.device).manual_seed(int(seeds[0])) for _ in range(self._team.size)
        ]
        self._target_generator = torch.Generator(self.device).manual_seed(int(seeds[1]))
        self._ahead: SplitBatch | None = None
        self._scale = 1.0  # What the gradient is multiplied by.
        self.sparsity = SparseWeights(self.online_network, self._online, self.optimizer, seed)
        self.copy_target()  # With the zeros.

    def step(self, batch: Batch, meanwhile: Callable[[], Batch | None] = lambda: None) -> UpdateResult:
        """Make one update: target, loss, gradient, Adam. A loss that is not finite changes no weight.

        `meanwhile` is called once, in the caller's thread, while the gradient is computed. It may return the
        batch of the next update: members of the team that are through with this one begin with it. That
        changes no number.
        """
        work = self._work_on(batch)
        shares, rows = len(work.shares), len(batch.action)
        parts: list[SharePart | None] = [None] * shares
        seen: list[UpdateResult] = []

        def differentiate(member: int) -> None:
            noise = self.sample_noise(member, rows)
            # The last members take the shares: member 0 draws the next batch meanwhile.
            share = member - (self._team.size - shares)
            if share >= 0:
                parts[share] = self._differentiate(share, work, noise.rows(work.rows(share)), 1.0 / rows)

        def sum_up() -> None:
            seen.append(result_of([part for part in parts if part is not None]))
            self._scale = clipping(self.config.max_grad_norm, [flat for flat, _ in self._buffers[:shares]])

        def apply(member: int) -> Tensor:
            return self._apply(member, shares) if math.isfinite(seen[0].loss) else torch.tensor(math.nan)

        norms = self._team.run(differentiate, sum_up, apply, lambda: self._look_ahead(meanwhile()))
        return replace(seen[0], grad_norm=torch.linalg.vector_norm(torch.stack(norms)).item())

    @property
    def team(self) -> ThreadTeam:
        """The threads that share the work of an update; idle between updates."""
        return self._team

    def sample_noise(self, member: int, rows: int) -> UpdateNoise:
        """Draws for the online network's forward passes of an update of so many rows, the whole batch's.

        `NetworkConfig.noise_per` says who shares them; a noisy router's are always those of each row.
        Every member of the team draws the same numbers, from a generator of its own: waiting for the one that
        would draw for all takes longer.
        """
        generator = self._generators[member]
        if self._noise_per_row:  # The chooser shares the target network's draw.
            return UpdateNoise(self.online_network.sample_noise(generator, rows, routed_rows=rows))
        draws = (self.online_network.sample_noise(generator, routed_rows=rows) for _ in range(2))
        return UpdateNoise(*draws)

    def sample_target_noise(self, rows: int) -> Noise | None:
        """As `sample_noise`, for the target network's pass over a batch; all rows share it."""
        return self.target_network.sample_noise(self._target_generator, routed_rows=rows)

    @torch.no_grad()
    def next_values(self, data: TensorBatch, noise: Noise | None = None) -> NextValues:
        """The target network's values of the next observations."""
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

    def _work_on(self, batch: Batch) -> SplitBatch:
        """The work on this batch, with what was computed ahead if it is the batch that was expected."""
        if self._ahead is not None and self._ahead.batch is not batch:
            self._forget_ahead()
        work, self._ahead = self._ahead or self._work_of(batch), None
        return work

    def _work_of(self, batch: Batch) -> SplitBatch:
        columns = (column.chunk(self._team.num_shares) for column in self.to_device(batch))
        shares = [TensorBatch(*share) for share in zip(*columns, strict=True)]
        # Drawn here, by the caller's thread: members may work on two batches at once.
        before = self._target_generator.get_state()
        return SplitBatch(batch, shares, self.sample_target_noise(len(batch.action)), before)

    def _look_ahead(self, batch: Batch | None) -> list[Callable[[], None]]:
        """Tasks that the next update will not have to do if they are done now, on its batch."""
        if batch is None:
            return []
        self._ahead = work = self._work_of(batch)

        def look_ahead(share: int) -> None:
            work.next_values[share] = self._next_values_of(work, share)

        return [partial(look_ahead, share) for share in range(len(work.shares))]

    def _forget_ahead(self) -> None:
        """As if nothing had been computed ahead."""
        if self._ahead is not None:
            self._target_generator.set_state(self._ahead.noise_before)
            self._ahead = None

    def _next_values_of(self, work: SplitBatch, share: int) -> NextValues:
        noise = work.target_noise
        return self.next_values(work.shares[share], noise and noise.rows(work.rows(share)))

    def _differentiate(self, share: int, work: SplitBatch, noise: UpdateNoise, scale: float) -> SharePart:
        """The losses of one share, and the gradient of `scale` times their weighted sum in its buffer."""
        data = work.shares[share]
        # Keep no reference to the next values: the passes below need their place in the cache.
        target = self.target(
            data, noise, work.next_values.pop(share, None) or self._next_values_of(work, share)
        )
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
    def _apply(self, member: int, shares: int) -> Tensor:
        """Step one member's part of the weights by the summed gradient; returns its norm ()."""
        part = self.optimizer.slices[member]
        gradient = self.optimizer.gradient[part]
        gradient.copy_(self._buffers[0][0][part])  # To float32, in which the shares are summed.
        for buffer, _ in self._buffers[1:shares]:
            gradient.add_(buffer[part])
        norm: Tensor = torch.linalg.vector_norm(gradient)
        if self._scale != 1.0:
            gradient.mul_(self._scale)
        self.optimizer.step(member)
        self._online.refresh(part)
        return norm

    def to_device(self, batch: Batch) -> TensorBatch:
        """The batch's arrays as tensors on the device; on the CPU they share the arrays' memory."""
        tensors = [torch.from_numpy(getattr(batch, name)) for name in TensorBatch._fields]
        if self.device.type == "cuda":
            tensors = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
        return TensorBatch(*tensors)

    def copy_target(self) -> None:
        """Copy the online network's weights into the target network."""
        with torch.no_grad():
            self._target_flat.copy_(self._online_flat)
        self._target.refresh()
        self._forget_ahead()  # Computed with the target network as it was.

    def gradients(self) -> dict[str, Tensor]:
        """The last update's gradient by parameter name: float32 views, overwritten by the next update."""
        return named_views(self.online_network, self.optimizer.gradient)

    def parameters(self) -> NDArray[np.float32]:
        """The online network's weights as one new array (P,), in the order of `models.arrays.flatten`."""
        return flatten(self.online_network)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of all that later updates depend on, on the CPU, and a JSON-able document about them.

        Tensors: `online/<parameter>`, `target/<parameter>`, `optimizer/...`, `zeros/<kernel>` of sparse
        weights, `noise_generator` and `judge_noise_generator` (uint8).
        """
        self._forget_ahead()  # The states below are then from before the next batch.
        tensors = {
            "noise_generator": self._generators[0].get_state(),
            "judge_noise_generator": self._target_generator.get_state(),
        }
        for prefix, network in (("online", self.online_network), ("target", self.target_network)):
            for name, parameter in network.named_parameters():
                tensors[f"{prefix}/{name}"] = parameter.detach().cpu().contiguous().clone()
        for name, tensor in self.optimizer.state(self.online_network).items():
            tensors[f"optimizer/{name}"] = tensor
        tensors |= self.sparsity.state()
        threads = self._team.num_threads
        return tensors, {"num_threads": threads, "dtype": str(self.dtype), "torch": torch.__version__}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any] | None = None) -> None:
        """Inverse of `state`; other tensors in the mapping are ignored. Raises KeyError for a missing one."""
        del document  # For inspection: the threads and dtype with which later updates are bit-identical.
        for prefix, network in (("online", self.online_network), ("target", self.target_network)):
            for name, parameter in network.named_parameters():
                parameter.copy_(tensors[f"{prefix}/{name}"])
        prefix = "optimizer/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.optimizer.restore(self.online_network, own)
        self.sparsity.restore(tensors)
        self._ahead = None  # The generators are restored below, so nothing is put back.
        groups = {"noise_generator": self._generators, "judge_noise_generator": [self._target_generator]}
        for name, generators in groups.items():
            for generator in generators:
                generator.set_state(tensors[name].to(torch.uint8).cpu())
        self._online.refresh()
        self._target.refresh()
