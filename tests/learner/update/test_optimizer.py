"""Adam by hand, packed parameters, state round trip."""

import math

import torch

from learner.config import LearnerConfig
from learner.update.flat_parameters import named_views, pack
from learner.update.optimizer import FlatAdam, clipping
from models.config import NetworkConfig
from models.q_network import build_network


def _network(seed=0):
    config = NetworkConfig(encoder="nature", padding="valid", expert_hidden_units=8, num_atoms=5)
    return build_network(config, 3, observation_shape=(2, 44, 44), seed=seed)


def test_pack_keeps_values_and_memory_formats():
    network, reference = _network(), _network()
    flat = pack(network)
    for (name, packed), plain in zip(network.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(packed, plain), name
        assert packed.stride() == plain.stride(), name
        assert packed.data_ptr() % 4 == 0
    with torch.no_grad():
        flat.fill_(2.0)
    assert all((parameter == 2.0).all() for parameter in network.parameters())


def test_adam_by_hand_without_weight_decay():
    """Steps on gradients 1, then 3, at a rate and half of it: moments, bias correction, epsilon in floats."""
    network = _network()
    flat = pack(network)
    config = LearnerConfig(learning_rate=0.01, adam_eps=0.5)
    optimizer = FlatAdam(flat, config)
    value = flat[0].item()
    first_moment = second_moment = 0.0
    for step, gradient in enumerate((1.0, 3.0), start=1):
        optimizer.gradient.fill_(gradient)
        rate = 0.01 / step
        optimizer.set_learning_rate(rate)
        optimizer.step(0)
        first_moment = 0.9 * first_moment + 0.1 * gradient
        second_moment = 0.999 * second_moment + 0.001 * gradient**2
        scale = math.sqrt(second_moment / (1 - 0.999**step)) + 0.5
        value -= rate * first_moment / (1 - 0.9**step) / scale
        assert math.isclose(flat[0].item(), value, rel_tol=1e-5)


def _step(optimizer, gradient):
    optimizer.gradient.copy_(gradient)
    for part in range(len(optimizer.slices)):
        optimizer.step(part)


def test_parts_and_a_state_round_trip_change_nothing():
    networks = [_network(0), _network(0)]
    flats = [pack(network) for network in networks]
    optimizers = [FlatAdam(flat, LearnerConfig(), parts) for flat, parts in zip(flats, (1, 3), strict=True)]
    gradient = torch.randn(len(flats[0]), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        _step(optimizers[0], gradient)
    state = optimizers[0].state(networks[0])
    assert state["step"].item() == 3
    optimizers[1].restore(networks[1], state)
    with torch.no_grad():
        flats[1].copy_(flats[0])
    for optimizer in optimizers:
        _step(optimizer, -gradient)
    views = [named_views(network, flat) for network, flat in zip(networks, flats, strict=True)]
    assert all(torch.equal(views[0][name], views[1][name]) for name in views[0])


def test_a_step_that_is_spared_changes_nothing():
    """Parameters, moments and the count of steps, whatever the gradient is."""
    network = _network()
    flat = pack(network)
    optimizer = FlatAdam(flat, LearnerConfig())
    _step(optimizer, torch.ones_like(flat))
    before, state = flat.clone(), optimizer.state(network)
    optimizer.gradient.fill_(math.nan)
    optimizer.step(0, torch.tensor(1.0))
    assert torch.equal(flat, before)
    after = optimizer.state(network)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    optimizer.gradient.fill_(1.0)
    optimizer.step(0, torch.tensor(0.0))
    assert not torch.equal(flat, before)
    assert optimizer.state(network)["step"].item() == 2


def test_a_gradient_is_clipped_to_its_norm_and_not_stretched():
    assert clipping(torch.tensor(4.0), 0.5).item() == 0.125
    assert clipping(torch.tensor(0.25), 0.5).item() == 1.0
    assert clipping(torch.tensor(0.0), 0.5).item() == 1.0
