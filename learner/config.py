"""Configuration of the learner; every field is one command-line flag."""

import math
import os
from dataclasses import dataclass
from typing import Annotated, Literal

from apexpert.limits import SHARE, Ge, Gt

ScalarLoss = Literal["huber", "squared"]
PriorityKind = Literal["loss", "kl", "absolute_td"]


FORMER_NAMES = {"num_threads": "cpus"}
"""Fields of saved configurations that have another name now."""


@dataclass(frozen=True)
class LearnerConfig:
    """The learner's loss, optimizer, schedule and checkpoints."""

    batch_size: Annotated[int, Gt(0)] = 32
    """Transitions per update."""
    update_period: Annotated[int, Gt(0)] = 4
    """Env steps of the fleet per update; samples_per_insert is batch_size / update_period."""
    double: bool = True
    """Double Q-learning: the online network chooses the next action, the target network evaluates it."""
    loss: ScalarLoss = "huber"
    """Loss of scalar values: huber (delta 1), or squared (the squared error without the half). C51 and
    quantiles have their own losses."""
    priority: PriorityKind = "loss"
    """An item's new priority after it was drawn. loss: its loss (C51: the cross-entropy); kl: C51's loss
    without the target's entropy; absolute_td: the absolute error of the mean value, as actors send it."""
    target_update_period: Annotated[int, Gt(0)] = 2_000
    """Updates between two copies of the online network into the target network."""
    learning_rate: Annotated[float, Gt(0)] = 6.25e-5
    """Adam's learning rate."""
    final_learning_rate: Annotated[float, Ge(0)] = 0.0
    """Adam's learning rate at the run's end, reached along half a cosine of the env steps
    (Loshchilov and Hutter, 2017, arXiv 1608.03983, without restarts); 0 keeps it constant."""
    adam_eps: Annotated[float, Gt(0)] = 1.5e-4
    """Adam's epsilon."""
    pruning_start: Annotated[float, SHARE] = 0.2
    """Share of the run's env steps at which --network.sparsify pruning begins."""
    pruning_end: Annotated[float, SHARE] = 0.8
    """Share of the run's env steps at which pruning has reached --network.sparsity."""
    pruning_period: Annotated[int, Gt(0)] = 1_000
    """Updates between two steps of pruning."""
    max_grad_norm: Annotated[float, Ge(0)] = 0.0
    """L2 norm that the whole gradient is clipped to; 0 turns clipping off."""
    publish_period: Annotated[int, Gt(0)] = 50
    """Updates between two publications of weights."""
    checkpoint_period: Annotated[int, Gt(0)] = 25_000
    """Updates between two checkpoints; another one is written when the run stops."""
    checkpoint_seconds: Annotated[float, Ge(0)] = 300.0
    """Seconds after which a checkpoint is written earlier than that; 0: never. No update depends on it."""
    keep_checkpoints: Annotated[int, Gt(0)] = 3
    """Newest checkpoints kept, besides the best by evaluation."""
    keep_every: Annotated[int, Ge(0)] = 0
    """Updates between two networks that are kept for good, as files that `evaluate` and `play` take: a
    multiple of checkpoint_period; 0: none."""
    diagnostics_period: Annotated[int, Ge(0)] = 10_000
    """Updates between two diagnoses (dormant neurons, ranks, empirical NTK, experts, norms); 0: none."""
    updates_in_flight: Literal[0, 1] = 1
    """Updates whose new priorities may be missing when the next batch is drawn: 1 draws the batch while the
    update is computed, 0 after it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; `auto` takes a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of forward and backward pass over float32 weights; `auto` is bfloat16 where that is fast."""
    cpus: Annotated[int, Ge(0)] = 0
    """CPU threads of the learner and, on a Ray cluster, cores that are reserved for it; 0 reserves one core
    and uses all of its node's."""

    @property
    def cpu_threads(self) -> int:
        """Threads to give torch before a train step is built, whose team has as many from then on."""
        # The cores that this process may use: taskset or a cpuset leaves fewer than the machine has.
        return self.cpus or len(os.sched_getaffinity(0))

    def learning_rate_at(self, progress: float) -> float:
        """Adam's learning rate when this share of the run's env steps, 0 to 1, is inserted."""
        final = self.final_learning_rate or self.learning_rate
        left = (1.0 + math.cos(math.pi * min(progress, 1.0))) / 2.0
        return final + (self.learning_rate - final) * left

    def pruned_at(self, progress: float) -> float:
        """Share of the final sparsity that is pruned when this share of the run's env steps is inserted.

        It rises as 1 - (1 - x)^3, x from 0 at `pruning_start` to 1 at `pruning_end`: fast while there is
        much to prune (Zhu and Gupta, 2017, arXiv 1710.01878, equation 1, from a sparsity of 0).
        """
        done = (progress - self.pruning_start) / (self.pruning_end - self.pruning_start)
        return 1.0 - (1.0 - min(max(done, 0.0), 1.0)) ** 3
