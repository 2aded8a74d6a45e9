"""An update captured on a GPU: launched whole by one call, instead of kernel by kernel.

A launch returns at once. Its batch travels through page-locked memory of its own, so that the host may
prepare the next one meanwhile; its result comes back the same way. On a CPU the same class calls the update
itself, on the same memory: tests check there what a GPU replays. Shapes: B batch.
"""

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apexpert.errors import one_line
from learner.update.generators import NoiseGenerators
from learner.update.update import Update
from learner.update.work import TensorBatch, UpdateResult
from replay.types import Batch

logger = logging.getLogger(__name__)

ALIGNMENT = 64
"""Bytes at whose multiples a column begins."""
IN_FLIGHT = 2
"""Updates that may be launched and not yet taken."""
WARM_UPS = 3
"""Updates before the capture, which choose algorithms and allocate what they keep."""


class FlatBatch:
    """The columns of a `TensorBatch` in one piece of memory, so that a single copy moves all of them."""

    def __init__(self, rows: int, observation_shape: Sequence[int], device: torch.device) -> None:
        """On the CPU the memory is page-locked where there is a GPU to copy to."""
        images = ((rows, *observation_shape), torch.uint8)
        numbers = ((rows,), torch.float32)
        # In the order of TensorBatch.
        columns = (images, ((rows,), torch.int64), numbers, numbers, images, numbers)
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in columns]
        starts = np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)])
        pinned = device.type == "cpu" and torch.cuda.is_available()
        self.memory = torch.zeros(int(starts[-1]), dtype=torch.uint8, device=device, pin_memory=pinned)
        self.columns = TensorBatch(
            *(
                self.memory[start : start + size].view(dtype).view(shape)
                for (shape, dtype), start, size in zip(columns, starts.tolist(), sizes, strict=False)
            )
        )

    def fill(self, batch: Batch) -> None:
        """Copy a batch's columns in; ValueError if it has another number of rows."""
        for name, column in self.columns._asdict().items():
            values: NDArray[np.generic] = getattr(batch, name)
            if values.shape != column.shape:
                raise ValueError(f"{name} has shape {values.shape}, not {tuple(column.shape)}")
            np.copyto(column.numpy(), values)


class UnderWay:
    """An update that a GPU computes while the host goes on (see `Launched`)."""

    is_under_way = True

    def __init__(self, result: Tensor, event: "torch.cuda.Event | None") -> None:
        self._result, self._event = result, event

    def take(self) -> UpdateResult:
        """Wait for the update and return its result; to be called before the next launch but one."""
        if self._event is not None:
            self._event.synchronize()
        # A copy, because the memory serves a later update.
        return UpdateResult.unpack(self._result.numpy().copy())


class _Lane:
    """Host memory of one update under way, and what says when it may be written again."""

    def __init__(self, rows: int, observation_shape: Sequence[int], on_gpu: bool) -> None:
        self.batch = FlatBatch(rows, observation_shape, torch.device("cpu"))
        self.result = torch.zeros(rows + 4, pin_memory=on_gpu)
        self.copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self.done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]


class GraphedUpdate:
    """Launches an `Update` on batches of one size; belongs to one thread."""

    def __init__(
        self,
        update: Update,
        generators: NoiseGenerators,
        *,
        rows: int,
        observation_shape: Sequence[int],
        note: Callable[[str], None] = logger.warning,
    ) -> None:
        """`generators` have one member; `note` hears of a capture that failed."""
        self._update, self._generators = update, (generators.members[0], generators.target)
        device = generators.target.device
        self._on_gpu = device.type == "cuda"
        self._inputs = FlatBatch(rows, observation_shape, device)
        self._packed = torch.zeros(rows + 4, device=device)
        self._lanes = [_Lane(rows, observation_shape, self._on_gpu) for _ in range(IN_FLIGHT)]
        self._launches = 0
        self._replay = self._captured(note) if self._on_gpu else self._run

    def launch(self, batch: Batch) -> UnderWay:
        """Begin the update on this batch, of the rows that all have.

        The result of the launch but one before it must have been taken.
        """
        lane = self._lanes[self._launches % IN_FLIGHT]
        self._launches += 1
        if lane.copied is not None:
            lane.copied.synchronize()
        lane.batch.fill(batch)
        self._inputs.memory.copy_(lane.batch.memory, non_blocking=True)
        if lane.copied is not None:
            lane.copied.record()
        self._replay()
        lane.result.copy_(self._packed, non_blocking=True)
        if lane.done is not None:
            lane.done.record()
        return UnderWay(lane.result, lane.done)

    def _run(self) -> None:
        """Make the update on the inputs where they lie, and leave its result where it is copied from."""
        self._packed.copy_(self._update.update(self._inputs.columns, *self._generators))

    def _captured(self, note: Callable[[str], None]) -> Callable[[], None]:
        """Return what replays the update; if it cannot be captured, what runs it kernel by kernel."""
        before = self._update.changing()
        saved = [tensor.clone() for tensor in before]
        states = [generator.get_state() for generator in self._generators]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        replay: Callable[[], None] = graph.replay
        try:
            for generator in self._generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=stream):
                self._run()
        except RuntimeError as error:  # A user's own encoder or head that waits for the device, say.
            note(f"the update cannot be captured and runs kernel by kernel: {one_line(error)}")
            replay = self._run
        for tensor, value in zip(before, saved, strict=True):
            tensor.copy_(value)
        self._update.refresh()
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        return replay
