"""One update of the online network from a replay batch."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.config import LearnerConfig
from learner.update.flat_parameters import named_views
from learner.update.generators import NoiseGenerators
from learner.update.gpu.graphed import GraphedUpdate
from learner.update.gpu.weights_copy import WeightsCopier
from learner.update.precision import be_strict, choose_device
from learner.update.thread_team import Phase, ThreadTeam
from learner.update.update import Update
from learner.update.work import (
    Finished,
    Launched,
    NextValues,
    SharePart,
    SplitBatch,
    TensorBatch,
    UpdateNoise,
    UpdateResult,
)
from models.arrays import flatten
from models.config import NetworkConfig
from models.memory import keep_freed_memory
from models.precision import choose_dtype
from models.q_network import build_network
from models.summary import flops_of
from models.values.noisy import Noise
from replay.types import Batch

logger = logging.getLogger(__name__)
T = TypeVar("T")


class TrainStep(Update):
    """An `Update` with everything that runs it: team of threads, generators, batch ahead, state.

    Not thread-safe, though on a CPU it shares the batch out to a team of threads. It draws from its own
    generators only. On a CPU its updates are reproducible bit by bit for the same number of threads, also
    over `state` and `restore`: `config.cpus`, or torch's own number when the object is built.
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
        note: Callable[[str], None] = logger.warning,
    ) -> None:
        """`note` gets lines that a user should read."""
        self.note = note
        self._graphed: GraphedUpdate | None = None
        self._copier: WeightsCopier | None = None
        self.num_actions = num_actions
        self.observation_shape = observation_shape
        self.device = choose_device(config.device) if device is None else torch.device(device)
        threads = config.cpus or torch.get_num_threads()
        network = build_network(network_config, num_actions, observation_shape=observation_shape, seed=seed)
        self.team = ThreadTeam(1, threads)
        """The threads that share the work of an update; idle between updates."""
        be_strict(config.precision)
        if self.device.type == "cpu":
            keep_freed_memory()
            self.team = ThreadTeam.for_batch(threads, config.batch_size, flops_of(network))
        self._ahead: SplitBatch | None = None
        super().__init__(
            network.to(self.device),
            config,
            choose_dtype(config.precision, self.device),
            seed=seed,
            num_shares=self.team.num_shares,
            num_parts=self.team.size,
        )
        self.generators = NoiseGenerators(seed, self.device, self.team.size)

    def step(self, batch: Batch, meanwhile: Callable[[], Batch | None] = lambda: None) -> UpdateResult:
        """Make one update, as `launch` does, and return its result."""
        return self.launch(batch, meanwhile).take()

    def launch(self, batch: Batch, meanwhile: Callable[[], Batch | None] = lambda: None) -> Launched:
        """Begin one update: target, loss, gradient, Adam.

        A loss or a gradient that is not finite changes no weight. Of an update that is under way when this
        returns, the result has to be taken before the next launch but one; whatever else is asked of this
        object comes after it in the GPU's order.

        `meanwhile` is called once, in the caller's thread, while the update is computed. It may return the
        batch of the next update: members of the team that are through with this one begin with it. That
        changes no number.
        """
        if not self.stays_under_way:
            return Finished(self._step_of_team(batch, meanwhile))
        if self._graphed is None:
            rows, shape = len(batch.action), self.observation_shape
            self._graphed = GraphedUpdate(
                self, self.generators, rows=rows, observation_shape=shape, note=self.note
            )
        launched = self._graphed.launch(batch)
        meanwhile()
        return launched

    def _step_of_team(self, batch: Batch, meanwhile: Callable[[], Batch | None]) -> UpdateResult:
        work = self._work_on(batch)
        shares, rows = len(work.shares), len(batch.action)
        parts: list[SharePart | None] = [None] * shares
        norms: list[Tensor | None] = [None] * self.team.size
        packed: list[Tensor] = []

        def differentiate(member: int) -> None:
            noise = self.noise_of(member, rows)
            # The last members take the shares: member 0 draws the next batch meanwhile.
            share = member - (self.team.size - shares)
            if share >= 0:
                parts[share] = self._differentiate(share, work, noise.rows(work.rows(share)), 1.0 / rows)

        def add_up(member: int) -> None:
            norms[member] = self.add_up(member, shares)

        def judge() -> None:
            packed.append(self.judge(_whole(parts), _whole(norms)))

        def apply(member: int) -> None:
            self.apply(member, packed[0])

        phases = (Phase(lambda: None, add_up), Phase(judge, apply))
        self.team.run(differentiate, phases, lambda: self._look_ahead(meanwhile()))
        return UpdateResult.unpack(packed[0].cpu().numpy())

    @property
    def stays_under_way(self) -> bool:
        """Whether updates and copies are still under way when the call that begins them returns."""
        return self.device.type == "cuda"

    def noise_of(self, member: int, rows: int) -> UpdateNoise:
        """Draw a member's noise for the online network's passes over a whole batch of so many rows."""
        return self.sample_noise(self.generators.members[member], rows)

    def target_noise_of(self, rows: int) -> Noise | None:
        """Draw the noise for the target network's pass over a batch of so many rows."""
        return self.sample_target_noise(self.generators.target, rows)

    def _work_on(self, batch: Batch) -> SplitBatch:
        """The work on this batch, with what was computed ahead if it is the batch that was expected."""
        if self._ahead is not None and self._ahead.batch is not batch:
            self._forget_ahead()
        work, self._ahead = self._ahead or self._work_of(batch), None
        return work

    def _work_of(self, batch: Batch) -> SplitBatch:
        columns = (column.chunk(self.team.num_shares) for column in self.to_device(batch))
        shares = [TensorBatch(*share) for share in zip(*columns, strict=True)]
        # Drawn here, by the caller's thread: members may work on two batches at once.
        before = self.generators.target.get_state()
        return SplitBatch(batch, shares, self.target_noise_of(len(batch.action)), before)

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
            self.generators.target.set_state(self._ahead.noise_before)
            self._ahead = None

    def _next_values_of(self, work: SplitBatch, share: int) -> NextValues:
        noise = work.target_noise
        return self.next_values(work.shares[share], noise and noise.rows(work.rows(share)))

    def _differentiate(self, share: int, work: SplitBatch, noise: UpdateNoise, scale: float) -> SharePart:
        # No name for the next values, which `differentiate` drops as soon as it can.
        return self.differentiate(
            share,
            work.shares[share],
            noise,
            work.next_values.pop(share) if share in work.next_values else self._next_values_of(work, share),
            scale,
        )

    def to_device(self, batch: Batch) -> TensorBatch:
        """The batch's arrays as tensors on the device; on the CPU they share the arrays' memory."""
        tensors = (torch.from_numpy(getattr(batch, name)) for name in TensorBatch._fields)
        return TensorBatch(*(tensor.to(self.device) for tensor in tensors))

    def copy_target(self) -> None:
        """Copy the online network's weights into the target network."""
        super().copy_target()
        self._forget_ahead()  # Computed with the target network as it was.

    def gradients(self) -> dict[str, Tensor]:
        """The last update's gradient by parameter name: float32 views, overwritten by the next update."""
        return named_views(self.online_network, self.optimizer.gradient)

    def parameters(self) -> NDArray[np.float32]:
        """The online network's weights as one new array (P,), in the order of `models.arrays.flatten`."""
        return flatten(self.online_network)

    def begin_copy(self) -> Callable[[], NDArray[np.float32]]:
        """Begin a copy of `parameters` as they are now; return what waits for it and returns it, once."""
        if not self.stays_under_way:
            parameters = self.parameters()
            return lambda: parameters
        if self._copier is None:
            self._copier = WeightsCopier(self.online_network, self._online_flat)
        return self._copier.begin()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of all that later updates depend on, on the CPU, and a JSON-able document about them.

        Tensors: `online/<parameter>`, `target/<parameter>`, `optimizer/...`, `zeros/<kernel>` of sparse
        weights, `noise_generator` and `judge_noise_generator` (uint8).
        """
        self._forget_ahead()  # The states below are then from before the next batch.
        tensors = self.generators.state()
        network = self.online_network
        for prefix, flat in (("online", self._online_flat), ("target", self._target_flat)):
            # One copy of each, of which the tensors are views: the learner waits for it.
            views = named_views(network, flat.detach().to("cpu", copy=True))
            tensors |= {f"{prefix}/{name}": view for name, view in views.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state(network).items()}
        tensors |= self.sparsity.state()
        threads = self.team.num_threads
        return tensors, {"num_threads": threads, "dtype": str(self.dtype), "torch": torch.__version__}

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], document: Mapping[str, Any] | None = None, *, update: int = 0
    ) -> str:
        """Inverse of `state`, before the update after `update`; other tensors in the mapping are ignored.

        Returns why later updates differ from those of the step whose state it is; empty where they are equal
        to the last bit. Raises KeyError for a missing tensor.
        """
        for prefix, network in (("online", self.online_network), ("target", self.target_network)):
            for name, parameter in network.named_parameters():
                parameter.copy_(tensors[f"{prefix}/{name}"])
        prefix = "optimizer/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.optimizer.restore(self.online_network, own)
        self.sparsity.restore(tensors)
        self._ahead = None  # The generators are restored below, so nothing is put back.
        self.refresh()
        differences = (
            [] if self.generators.restore(tensors, update) else ["the noise was drawn by other hardware"]
        )
        saved, threads = (document or {}).get("num_threads"), self.team.num_threads
        if saved not in (None, threads):
            differences.append(f"threads were {saved}, are {threads}")
        return "; ".join(differences)


def _whole(parts: Sequence[T | None]) -> list[T]:
    """Return what all members have left, which is all there by now."""
    return [part for part in parts if part is not None]
