"""Flat arrays and the reference's parameter files: round trips."""

import numpy as np
import pytest
import torch

from models.arrays import flatten, load
from models.config import NetworkConfig
from models.dopamine import load_dopamine, to_dopamine
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
    load(copy, frozen)
    for (name, a), b in zip(source.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b), name
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


@pytest.mark.parametrize("encoder", ["impala", "nature"])
@pytest.mark.parametrize("head", ["soft_moe", "dense"])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("scope", ["encoder/", ""])
def test_dopamine_round_trip(encoder, head, noisy, dueling, scope):
    changes = {"encoder": encoder, "head": head, "noisy": noisy, "dueling": dueling}
    source, copy = _network(1, **changes), _network(2, **changes)
    load_dopamine(copy, to_dopamine(source, encoder_scope=scope))
    for (name, a), b in zip(source.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_missing_dopamine_parameter_is_named():
    arrays = to_dopamine(_network(1))
    del arrays["params/SoftMoE_0/phi_weights"]
    with pytest.raises(KeyError, match="phi_weights"):
        load_dopamine(_network(1), arrays)
