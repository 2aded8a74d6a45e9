"""`python -m learner.parity CASE.npz ...`: check that training computes what the paper's code computes.

Each case runs through the functions that training calls, in float32 on the CPU: network, losses, target,
gradient and optimizer of `TrainStep`, and the network statistics. One JSON line per case goes to stdout, with
the largest error of every array in the case. Exit status: 0 if all are within tolerance, 1 if one or more are
not, 2 if a case cannot be read or is not supported (one line on stderr; the other cases still run).
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apexpert.errors import one_line
from learner.config import LearnerConfig
from learner.diagnostics.reference_statistics import reference_statistics
from learner.parity.golden_case import UNREADABLE, CaseError, GoldenCase
from learner.parity.reference_noise import find_noise
from learner.update.train_step import TrainStep
from learner.update.work import NO_NOISE, NextValues, TensorBatch, UpdateNoise
from models.q_network import NetworkOutput
from models.reference.dopamine import SOFT_MOE_SCALE, load_dopamine, to_dopamine
from models.reference.options import (
    UnsupportedOption,
    count,
    is_double,
    kind,
    network_config,
    number,
    scalar_loss,
)
from models.values.noisy import Noise

ABSOLUTE_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-3
ADAM_STEPS = 3
PARAMETERS = ("params/", "target_params/")
INPUTS = ("state", "next_state", "action", "reward", "terminal", "loss_weight")
OUTPUTS = ("q_values", "logits", "moe_values", "router_probabilities", "experts_hidden")
RELATIVE = ("grad_norm", "grad_mean", "statistics")
"""Sections whose arrays are compared relative to the largest value of their kind."""
COUNTS = ("dormant_", "srank_", "entk_srank_")
"""Statistics that are whole numbers: their tolerance is zero."""
NOT_JUDGED = ("statistics/srank_0.0", "statistics/entk_srank_0.0")
"""They count values that are not exactly zero, which depends on rounding."""
Arrays = dict[str, NDArray[Any]]


class CaseStep(TrainStep):
    """The train step with what a case fixes: the noise of its passes and, once set, the target."""

    noise: UpdateNoise = NO_NOISE
    fixed_target: Tensor | None = None

    def noise_of(self, member: int = 0, rows: int = 0) -> UpdateNoise:
        """Return the noise of the case."""
        return self.noise

    def target_noise_of(self, rows: int = 0) -> Noise | None:
        """Return the noise of the case."""
        return self.noise.target

    def target(
        self, data: TensorBatch, noise: UpdateNoise = NO_NOISE, next_values: NextValues | None = None
    ) -> Tensor:
        """Return the fixed target if there is one, else the train step's own."""
        return super().target(data, noise, next_values) if self.fixed_target is None else self.fixed_target


def build_step(case: GoldenCase) -> tuple[CaseStep, int | None]:
    """Return the train step with the case's parameters in both networks, and the seed of its noise, if any.

    Raises CaseError or UnsupportedOption.
    """
    shape = case.observation().shape
    config = LearnerConfig(
        batch_size=shape[0],
        double=is_double(case.meta),
        loss=scalar_loss(case.meta),
        learning_rate=number(case.meta, "learning_rate", 6.25e-5),
        adam_eps=number(case.meta, "adam_eps", 1.5e-4),
        precision="float32",
        cpus=1,
    )
    network, num_actions = network_config(case.meta), count(case.meta, "num_actions")
    try:
        step = CaseStep(network, config, num_actions=num_actions, observation_shape=shape[1:], device="cpu")
    except (
        ValueError,
        RuntimeError,
    ) as error:  # A patch that does not fit, or too little memory for so many experts.
        raise CaseError(f"meta: {one_line(error)}") from error
    # A case that holds outputs only needs no target network.
    sections = {"params": step.online_network, "target_params": step.target_network}
    for section, part in sections.items():
        if section == "params" or case.section(section) or _needs_update(case):
            try:
                load_dopamine(part, case.section(section), agent=kind(case.meta))
            except (KeyError, ValueError) as error:
                raise CaseError(f"{section}/{error.args[0]}") from error
    seed = None
    if "experts_hidden" in case.arrays:
        hidden = torch.from_numpy(case.arrays["experts_hidden"].astype(np.float32))
        if found := find_noise(step.online_network, torch.from_numpy(case.observation()), hidden):
            noise, seed = found
            step.noise = UpdateNoise(noise, noise, noise)
    return step, seed


def compute(case: GoldenCase, step: CaseStep) -> Arrays:
    """Return our value for every array of the case, by name; raise CaseError or UnsupportedOption."""
    noise, observation = step.noise.online, torch.from_numpy(case.observation())
    found = _outputs(step, observation, noise)
    if not _needs_update(case):
        return found
    batch = case.batch()
    data = step.to_device(batch)
    # All Adam steps of a golden case have the target from before the first.
    step.fixed_target = step.target(data, step.noise)
    first = step.step(batch)
    # By default a priority is the sample's loss, without its weight (`LearnerConfig.priority`).
    found |= {"target": step.fixed_target.numpy(), "loss": first.priorities, "td_loss": first.priorities}
    found |= {"mean_loss": np.array(first.loss), "mean_td_loss": np.array(first.loss)}
    for name, gradient in to_dopamine(step.online_network, step.gradients(), agent=kind(case.meta)).items():
        found[f"grad_norm/{name}"] = np.array(np.linalg.norm(gradient.astype(np.float64)))
        found[f"grad_mean/{name}"] = np.array(gradient.astype(np.float64).mean())
    if case.section("statistics"):
        network = step.online_network
        statistics = reference_statistics(
            network, observation, data.action, step.fixed_target, noise, loss=step.config.loss
        )
        if network.config.head == "soft_moe" and not network.config.normalize:
            # The reference counts a parameter that nothing reads and that our network does not have.
            unread = case.section("params").get(SOFT_MOE_SCALE, np.zeros(1))
            statistics["param_norm"] += float(np.square(unread, dtype=np.float64).sum())
        found |= {f"statistics/{name}": np.array(value) for name, value in statistics.items()}
    for _ in range(ADAM_STEPS - 1):
        step.step(batch)
    found["q_values_after_3_adam_steps"] = _outputs(step, observation, noise)["q_values"]
    return found


def _outputs(step: TrainStep, observation: Tensor, noise: Noise | None) -> Arrays:
    with torch.no_grad():
        output: NetworkOutput = step.online_network(observation, noise)
    # Without a distribution the reference's logits are one value per action.
    logits = output.outputs if output.outputs.ndim == 3 else output.outputs.unsqueeze(2)
    found = {"q_values": output.q_values, "logits": logits}
    if output.moe is not None:
        found |= {
            "moe_values": output.moe.tokens,
            "router_probabilities": output.moe.router_probabilities,
            "experts_hidden": output.moe.hidden,
        }
    return {name: tensor.numpy() for name, tensor in found.items()}


def _compared(case: GoldenCase) -> list[str]:
    return [name for name in case.arrays if name not in INPUTS and not name.startswith(PARAMETERS)]


def _needs_update(case: GoldenCase) -> bool:
    return any(name not in OUTPUTS for name in _compared(case))


def report(case: GoldenCase) -> dict[str, Any]:
    """Run the case and return the document of its line, including the names that are over tolerance.

    Raises CaseError or UnsupportedOption.
    """
    for name in _compared(case):
        if case.arrays[name].dtype.kind not in "fiu":
            raise CaseError(f"{name}: {case.arrays[name].dtype}, not numbers")
    step, seed = build_step(case)
    found = compute(case, step)
    for name in _compared(case):
        _check_shape(case, name, found)
    document: dict[str, Any] = {"case": case.name, "max_abs_error": {}, "max_rel_error": {}}
    over = []
    for name in _compared(case):
        relative = name.startswith(tuple(f"{section}/" for section in RELATIVE))
        error = _error(case, name, found) / (_scale(case, name) if relative else 1.0)
        # JSON has no NaN.
        document["max_rel_error" if relative else "max_abs_error"][name] = (
            error if math.isfinite(error) else None
        )
        unjudged = name in NOT_JUDGED and math.isfinite(error)
        # Not `error > tolerance`, which is false for NaN.
        if not unjudged and not error <= _tolerance(name, relative):
            over.append(name)
    document["over_tolerance"] = over
    if seed is not None:
        document["expert_noise"] = f"PRNGKey({seed})"
    elif over and step.online_network.head.noise_sizes is not None:
        document["expert_noise"] = "none found that explains experts_hidden"
    return document


def _check_shape(case: GoldenCase, name: str, found: Arrays) -> None:
    if name not in found:
        raise CaseError(f"{name}: the network that meta describes gives no such array")
    ours, theirs = np.shape(found[name]), case.arrays[name].shape
    if ours != theirs:
        raise CaseError(f"{name}: shape {theirs}, the network that meta describes gives {ours}")


def _error(case: GoldenCase, name: str, found: Arrays) -> float:
    """Return the largest absolute difference; not finite where either side is not."""
    difference = np.asarray(found[name], np.float64) - case.arrays[name]
    return float(np.abs(difference).max(initial=0.0))


def _scale(case: GoldenCase, name: str) -> float:
    """Return the largest magnitude among the arrays of the same kind; 1 if all are zero."""
    section, _, leaf = name.partition("/")
    kinds = [key for key in case.section(section) if _kind(section, key) == _kind(section, leaf)]
    return max(float(np.abs(case.arrays[f"{section}/{key}"]).max()) for key in kinds) or 1.0


def _kind(section: str, leaf: str) -> str:
    """Return the kind to scale by: all gradients share one, statistics share one where they share a unit."""
    if section != "statistics":
        return section
    prefix, _, rest = leaf.partition("_")
    return prefix if prefix in ("entk", "q") and rest.endswith(("mean", "std")) else leaf


def _tolerance(name: str, relative: bool) -> float:
    if not relative:
        return ABSOLUTE_TOLERANCE
    return 0.0 if name.removeprefix("statistics/").startswith(COUNTS) else RELATIVE_TOLERANCE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.parity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz", help="golden cases")
    status = 0
    for path in parser.parse_args(arguments).cases:
        try:
            document = report(GoldenCase.load(path))
        except (CaseError, UnsupportedOption) as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 2
            continue
        except UNREADABLE as error:  # Its numbers or sizes are beyond what can be computed.
            print(f"{path}: cannot be computed: {one_line(error)}", file=sys.stderr)
            status = 2
            continue
        print(json.dumps(document), flush=True)
        status = max(status, 1 if document["over_tolerance"] else 0)
    return status
