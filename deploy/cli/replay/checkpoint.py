"""The sampler's part of a checkpoint, for those who look at a replay."""

from typing import Any

from numpy.typing import NDArray

from learner.checkpoint import Checkpoint, network_tensors


def sampler_arrays(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """The arrays of `Sampler.state`."""
    tensors = network_tensors(checkpoint.tensors, "sampler")
    return {name: tensor.numpy() for name, tensor in tensors.items()}
