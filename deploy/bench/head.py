"""`apexpert bench head`: the head's share of a network's time, by the number of experts."""

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actors.environments import describe_environment
from deploy.bench import limits
from deploy.bench.errors import WrongConfig
from deploy.run.config import Config, to_json, with_values
from learner.update.precision import choose_device
from models.config import MOE_HEADS
from models.memory import keep_freed_memory
from models.precision import choose_dtype
from models.q_network import NetworkOutput, build_network

EXPERTS = (1, 2, 4, 8, 16)
ENCODERS = ("impala", "nature")
DEFAULT_SECONDS = 1.0
LEAST_CALLS = 3
"""Minimum number of calls of each measurement, however short it is."""


class Part(NamedTuple):
    """A forward pass to time, and the tensors that its backward pass computes gradients for."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]

    def forward_alone(self) -> None:
        """Run without a graph, as for the target and for acting."""
        with torch.no_grad():
            self.forward()

    def forward_backward(self) -> None:
        """Run with a gradient of ones; parameters of noise that is off get none."""
        outputs = self.forward()
        # Ones stand in for a loss, whose time belongs neither to the head nor to the network.
        torch.autograd.grad(outputs, self.leaves, torch.ones_like(outputs), allow_unused=True)


def run(
    config: Config,
    *,
    seconds: float = DEFAULT_SECONDS,
    experts: Sequence[int] = EXPERTS,
    encoders: Sequence[str] = ENCODERS,
    least_calls: int = LEAST_CALLS,
    report: limits.Report = limits.silent,
) -> dict[str, Any]:
    """Measure the head's share of the whole network's time, in a forward pass and with the backward pass.

    Varies `config` over encoders (padding `same`) and numbers of experts. The head is everything between the
    feature map and the output layer: tokens, routing, experts. It is timed alone, on the feature map that the
    network's encoder computes from the same random frames, alternating with the whole network; results are
    medians of about `seconds` for both together. Device, precision, batch and threads are the learner's, but
    passes run one after the other, not split over a team of threads. `least_calls`: of each pass, however
    long they take. Raises WrongConfig for a head without experts.
    """
    if config.network.head not in MOE_HEADS:
        raise WrongConfig(f"--network.head {config.network.head}: must be one of {', '.join(MOE_HEADS)}")
    # As the learner does, so that no pass faults its memory in anew (docs/decisions/0007).
    keep_freed_memory()
    config = with_values(config, network__padding="same")
    device = choose_device(config.learner.device)
    dtype = choose_dtype(config.learner.precision, device)
    threads = config.learner.cpu_threads
    rows: list[dict[str, Any]] = []
    cases = list(itertools.product(encoders, experts))
    report(f"measuring {len(cases)} networks: {2 * seconds:g} s each, or {2 * least_calls} slow passes")
    for place, (encoder, count) in enumerate(cases, 1):
        varied = with_values(config, network__encoder=encoder, network__num_experts=count)
        with limits.threads(threads):
            measured = _measure(varied, device, dtype, seconds, least_calls)
        rows.append({"encoder": encoder, "num_experts": count} | measured)
        report(
            f"{place} of {len(cases)}: {encoder}, {count} experts:"
            f" head {measured['forward_share']:.1%} of a forward pass,"
            f" {measured['forward_backward_share']:.1%} with the backward pass"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {threads} threads"
    return {
        "benchmark": "head",
        "device": name,
        "precision": str(dtype).removeprefix("torch."),
        "batch_size": config.learner.batch_size,
        "rows": rows,
        "config": to_json(config),
    }


def _measure(
    config: Config, device: torch.device, dtype: torch.dtype, seconds: float, least_calls: int
) -> dict[str, Any]:
    """Measure one row: times of both passes, their ratios, and the operators of the head's forward pass."""
    parts = _parts(config, device, dtype)
    found: dict[str, Any] = {}
    for name in ("forward", "forward_backward"):
        calls = {
            key: part.forward_alone if name == "forward" else part.forward_backward
            for key, part in parts.items()
        }
        medians = _alternate(calls, device, seconds, least_calls)
        found |= {f"{name}_{key}_seconds": median for key, median in medians.items()}
        found[f"{name}_share"] = medians["head"] / medians["network"]
    return found | {"head_operators": _operators(parts["head"].forward_alone)}


def _operators(call: Callable[[], None]) -> int:
    """Count the operators that are called, without those that an operator calls itself."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _without_standard_error(), torch.profiler.profile(activities=activities) as profile:
        call()
    return sum(event.cpu_parent is None for event in profile.events())


@contextlib.contextmanager
def _without_standard_error() -> Iterator[None]:
    """Drop what C++ prints meanwhile: the profiler reports its own start and stop."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device, and no path of ours)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _parts(config: Config, device: torch.device, dtype: torch.dtype) -> dict[str, Part]:
    """Return the head on a feature map, and the network that made the map, with one draw of noise."""
    spec = describe_environment(config.environment)
    shape = spec.observation_shape(config.environment.stack)
    network = build_network(config.network, spec.num_actions, observation_shape=shape).to(device, dtype)
    random = torch.Generator(device).manual_seed(config.run.seed)
    size = (config.learner.batch_size, *shape)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=random)
    noise = network.sample_noise(random)
    # Without a graph, so that `features` is a leaf, where the head's backward pass ends.
    with torch.no_grad():
        features = network.encoder(network.to_image(frames), scale=1.0 / 255.0)
    # In training the head's backward pass also computes the gradient for the encoder.
    features.requires_grad_()

    def whole() -> Tensor:
        output: NetworkOutput = network(frames, noise)
        return output.outputs

    def head() -> Tensor:
        return network.head(network.tokenizer(features), noise).features

    in_head = [*network.tokenizer.parameters(), *network.head.parameters()]
    return {"head": Part(head, [features, *in_head]), "network": Part(whole, list(network.parameters()))}


def _alternate(
    calls: Mapping[str, Callable[[], None]], device: torch.device, seconds: float, least_calls: int
) -> dict[str, float]:
    """Return the median seconds of each function, called in turn for about `seconds` together.

    Taking turns, a slow moment of the machine affects all of them.
    """
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(min(limits.WARM_CALLS, least_calls)):
            call()
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or rounds < least_calls:
        rounds += 1
        for name, call in calls.items():
            _wait_for(device)
            begun = time.perf_counter()
            call()
            _wait_for(device)
            measured[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in measured.items()}


def _wait_for(device: torch.device) -> None:
    # CUDA runs kernels after the call has returned: the clock must wait for them.
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(result: Mapping[str, Any]) -> str:
    """Format the rows of `run` as Markdown: shares in percent, times in milliseconds."""
    lines = [
        f"Share of the head ({result['config']['network']['head']}) in the whole time: {result['device']},"
        f" {result['precision']}, batch {result['batch_size']}, padding SAME.",
        "",
        "| encoder | experts | operators | forward: head / whole ms | share"
        " | forward and backward: head / whole ms | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["encoder"], str(row["num_experts"]), str(row["head_operators"])]
        for name in ("forward", "forward_backward"):
            head, whole = (1e3 * row[f"{name}_{part}_seconds"] for part in ("head", "network"))
            cells += [f"{head:.2f} / {whole:.2f}", f"{row[f'{name}_share']:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
