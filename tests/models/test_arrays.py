"""Flat arrays: round trips."""

import warnings

import numpy as np
import pytest
import torch

from models.arrays import flatten, load
from models.config import NetworkConfig
from models.q_network import build_network

SHAPE = (2, 44, 44)
SMALL = NetworkConfig(
    encoder="nature", padding="valid", expert_hidden_units=8, dense_hidden_units=8, num_atoms=5
)


def _network(seed, **changes):
    config = NetworkConfig(**{**vars(SMALL), **changes})
    return build_network(config, 3, observation_shape=SHAPE, seed=seed)


def test_flatten_and_load():
    source, copy = _network(1), _network(2)
    array = flatten(source)
    assert array.dtype == np.float32
    assert array.shape == (sum(p.numel() for p in source.parameters()),)
    frozen = np.frombuffer(array.tobytes(), np.float32)
    assert not frozen.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # From torch, about memory that nobody may write to.
        load(copy, frozen)
    for (name, a), b in zip(source.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert frozen.tobytes() == array.tobytes()
    array[:] = 0
    assert source.output.linear.weight.any(), "the array must be a copy"


def test_load_into_bfloat16():
    network = _network(2).to(torch.bfloat16)
    source = _network(1)
    load(network, flatten(source))
    assert torch.equal(network.output.linear.weight, source.output.linear.weight.bfloat16())


def test_wrong_size_is_refused():
    with pytest.raises(ValueError, match="parameters"):
        load(_network(1), np.zeros(7, np.float32))
