"""One diagnosis: measurements of the network after an update, on a sample of the update's own batch.

Noise is off and nothing is drawn from the training's generators, so that a run with diagnostics is bit for
bit the same as one without. It computes in float32 whatever the training's precision; only the target, of
losses, NTK and TD errors, is the train step's, whose passes have the training's precision.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.diagnostics.dormancy import EncoderActivity, dormant_neurons, head_activity
from learner.diagnostics.empirical_ntk import SampleGradients, empirical_ntk, max_samples, sample_gradients
from learner.diagnostics.gates import combine_entropy, dispatch_entropy, dropped_token_share, expert_shares
from learner.diagnostics.norms import expert_gradient_norms, norms_by_part
from learner.diagnostics.ranks import singular_values, srank
from learner.diagnostics.reference_statistics import statistics_of
from learner.diagnostics.spread import recorded_inputs, spread
from learner.update.losses import sample_losses, td_errors
from learner.update.thread_team import Phase
from learner.update.train_step import TrainStep
from learner.update.work import TensorBatch
from models.mixtures.output import MoEOutput
from models.q_network import NetworkOutput
from replay.types import Batch

MAX_ROWS = 32
"""Rows of a batch that a diagnosis uses: the size of the paper's batch."""
QUANTILES = (0.5, 0.9)
T = TypeVar("T")


@dataclass(frozen=True)
class Before:
    """State that a diagnosis needs from before the update."""

    data: TensorBatch
    """The rows of the batch that are used, in random order."""
    target: Tensor
    """The target of their losses, (B, Z) or (B,), without noise."""
    parameters: dict[str, Tensor]
    """Copies of the online network's parameters."""


@dataclass
class Diagnosis:
    """Metrics by their names without `diagnostics/`, and arrays worth keeping."""

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, group: str, values: dict[str, float] | list[float] | list[Any]) -> None:
        """Add metrics `group/<name>`, or `group/<index>`."""
        items = values.items() if isinstance(values, dict) else enumerate(values)
        self.metrics |= {f"{group}/{name}": float(value) for name, value in items}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure the body as `seconds/<part>`, with what a GPU computes for it."""
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self.metrics[f"seconds/{part}"] = time.perf_counter() - start


def look_before(train_step: TrainStep, batch: Batch, seed: int) -> Before:
    """Record the state before the update on `batch`, which must follow; `seed` chooses the rows."""
    rows = np.random.default_rng(seed).permutation(len(batch.action))[:MAX_ROWS]
    some = Batch(**{column.name: getattr(batch, column.name)[rows] for column in fields(batch)})

    def look() -> Before:
        data = train_step.to_device(some)
        named = train_step.online_network.named_parameters()
        # As in the reference, the target is from before the update (decision 0014).
        return Before(data, train_step.target(data), {name: p.detach().clone() for name, p in named})

    return train_step.team.alone(look)


def diagnose(train_step: TrainStep, before: Before) -> Diagnosis:
    """Diagnose the network after the update, before anything else changes it.

    Raises RuntimeError when memory runs out or a matrix with non-finite numbers has no singular values.
    """
    network, data = train_step.online_network, before.data
    # The NTK uses fewer rows where all samples' gradients would not fit (decision 0014).
    rows = min(len(data.action), max_samples(network))
    columns = (data.observation, data.action, before.target)
    shares = list(zip(*(column[:rows].chunk(train_step.team.size) for column in columns), strict=True))
    parts: list[SampleGradients | None] = [None] * len(shares)
    diagnosis, start = Diagnosis(), time.perf_counter()

    def differentiate(member: int) -> None:
        if member < len(shares):
            parts[member] = sample_gradients(network, *shares[member], loss=train_step.config.loss)

    def finish(member: int) -> None:
        if member == 0:
            kernel = empirical_ntk(SampleGradients.join([part for part in parts if part is not None]))
            diagnosis.metrics["seconds/entk"] = time.perf_counter() - start
            _add_all(diagnosis, train_step, before, kernel)

    train_step.team.run(differentiate, [Phase(lambda: None, finish)])
    return diagnosis


@torch.no_grad()
def _add_all(diagnosis: Diagnosis, train_step: TrainStep, before: Before, kernel: Tensor) -> None:
    network, data = train_step.online_network, before.data
    with diagnosis.timed("features"):
        with EncoderActivity() as encoder, recorded_inputs(network.output) as features:
            output: NetworkOutput = network(data.observation)
        losses = sample_losses(output, data.action, before.target, train_step.config.loss)
        diagnosis.add("reference", statistics_of(network, output, losses, kernel))
        diagnosis.add("dormant_share", dormant_shares(encoder.layers, output.hidden))
        diagnosis.metrics["srank"] = float(srank(singular_values(features[0])))
        diagnosis.metrics["entk_rank"] = float(srank(singular_values(kernel)))
        diagnosis.metrics["entk_rows"] = float(len(kernel))
        diagnosis.metrics |= td_error_statistics(
            td_errors(output, data.action, before.target, network.support)
        )
    diagnosis.arrays["entk"] = kernel.cpu().numpy()
    with diagnosis.timed("gates"):
        _add_gates(diagnosis, output.moe)
    with diagnosis.timed("norms"):
        now = {name: parameter.detach() for name, parameter in network.named_parameters()}
        gradients = train_step.gradients()
        moved = {name: parameter - before.parameters[name] for name, parameter in now.items()}
        for group, tensors in (("parameter", now), ("grad", gradients), ("update", moved)):
            diagnosis.add(f"{group}_norm", norms_by_part(tensors))
        diagnosis.add("expert_grad_norm", expert_gradient_norms(network, gradients))


def spread_of(train_step: TrainStep, observations: NDArray[np.uint8]) -> dict[str, float]:
    """Return `learner.diagnostics.spread.spread` of the online network on uint8 observations (N, K, H, W)."""
    states = torch.from_numpy(observations).to(train_step.device)
    return train_step.team.alone(lambda: spread(train_step.online_network, states))


def _add_gates(diagnosis: Diagnosis, moe: MoEOutput | None) -> None:
    # Empty without experts, so that the files of every network hold the same arrays.
    shares = {"dispatch": torch.zeros(0), "combine": torch.zeros(0)}
    if moe is not None:
        shares = {
            "dispatch": expert_shares(moe.dispatch_weights),
            "combine": expert_shares(moe.combine_weights),
        }
        diagnosis.metrics["dispatch_entropy"] = dispatch_entropy(moe.dispatch_weights)
        diagnosis.metrics["combine_entropy"] = combine_entropy(moe.combine_weights)
        if moe.router_logits is not None:
            diagnosis.metrics["dropped_token_share"] = dropped_token_share(moe.dispatch_weights)
    for kind, share in shares.items():
        diagnosis.add(f"{kind}_share", share.tolist())
        diagnosis.arrays[f"{kind}_share"] = share.float().cpu().numpy()


def dormant_shares(encoder_layers: list[Tensor], hidden: Tensor) -> dict[str, float]:
    """Return the shares of dormant neurons, in [0, 1], of `encoder.0`, `encoder.1`, ..., `head` and `all`.

    `encoder_layers` are activities (C,) of the encoder's ReLUs in order of computation, `hidden` the head's
    activations (B, H) or (B, E, S, H); `all` is the share over all these layers.
    """
    layers = {f"encoder.{i}": activity for i, activity in enumerate(encoder_layers)}
    layers["head"] = head_activity(hidden)
    dormant = {name: dormant_neurons(activity) for name, activity in layers.items()}
    shares = {name: dormant[name] / activity.numel() for name, activity in layers.items()}
    return shares | {"all": sum(dormant.values()) / sum(activity.numel() for activity in layers.values())}


def td_error_statistics(errors: Tensor) -> dict[str, float]:
    """Return mean and standard deviation of errors (B,), maximum and quantiles of their absolute values."""
    sizes = errors.double().abs()
    statistics = {
        "td_error_mean": errors.double().mean().item(),
        "td_error_std": errors.double().std(correction=0).item(),
        "td_error_max": sizes.max().item(),
    }
    return statistics | {f"td_error_p{q * 100:.0f}": sizes.quantile(q).item() for q in QUANTILES}
