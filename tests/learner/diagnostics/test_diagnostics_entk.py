"""The empirical NTK against gradients taken one by one in float64, for every head and for odd networks."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from learner.diagnostics import empirical_ntk
from learner.diagnostics.empirical_ntk import SampleGradients, max_samples, sample_gradients
from learner.update.losses import sample_losses
from models.config import NetworkConfig
from models.q_network import NetworkOutput, build_network

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (2, 36, 36)
BASE = NetworkConfig(
    encoder="nature", padding="same", num_experts=2, expert_hidden_units=6, dense_hidden_units=6, num_atoms=5
)
ARMS = {
    "soft_moe": {},
    "top_k_moe": {"head": "top_k_moe"},
    "dense": {"head": "dense"},
    "pooled": {"head": "pooled"},
    "dqn": {"values": "scalar", "dueling": False, "noisy": False},
    "quantile": {"values": "quantile", "num_quantiles": 5},
    "per_sample": {"tokens": "per_sample"},
    "impala": {"encoder": "impala", "normalize": True},
}


def batch_of(network, size=5, seed=0):
    rng = np.random.default_rng(seed)
    observation = torch.from_numpy(rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8))
    action = torch.from_numpy(rng.integers(0, 3, size))
    if network.config.values == "scalar":
        return observation, action, torch.from_numpy(rng.normal(size=size).astype(np.float32))
    return observation, action, torch.from_numpy(rng.dirichlet(np.ones(5), size).astype(np.float32))


def plain_kernel(network, observation, action, target, noise=None, loss="huber"):
    """Every gradient as a row, in float64."""
    network = copy.deepcopy(network).double()
    if noise is not None:
        noise = noise._replace(
            **{
                n: type(x)(*(f.double() for f in x))
                for n, x in noise._asdict().items()
                if n != "router" and x
            }
        )
    output = network(observation, noise)
    losses = sample_losses(output, action, target.to(output.q_values.dtype), loss)
    rows = []
    for of_a_sample in losses:
        gradients = torch.autograd.grad(
            of_a_sample, list(network.parameters()), retain_graph=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("arm", ARMS)
def test_the_kernel_of_every_arm(arm):
    network = build_network(NetworkConfig(**(vars(BASE) | ARMS[arm])), 3, observation_shape=SHAPE, seed=1)
    batch = batch_of(network)
    gradients = sample_gradients(network, *batch)
    assert "output.linear.weight" in gradients.factors
    assert "output.linear.weight" not in gradients.rows
    assert not any("sigma" in name for name in gradients.rows), "without noise its scales take no memory"
    expected = plain_kernel(network, *batch)
    kernel = empirical_ntk.empirical_ntk(gradients)
    torch.testing.assert_close(kernel.double(), expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_the_kernel_of_squared_errors():
    network = build_network(NetworkConfig(**(vars(BASE) | ARMS["dqn"])), 3, observation_shape=SHAPE, seed=1)
    batch = batch_of(network)
    kernel = empirical_ntk.empirical_ntk(sample_gradients(network, *batch, loss="squared")).double()
    expected = plain_kernel(network, *batch, loss="squared")
    torch.testing.assert_close(kernel, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert not torch.allclose(kernel, plain_kernel(network, *batch), rtol=1e-2)


def test_the_kernel_with_noise():
    network = build_network(BASE, 3, observation_shape=SHAPE, seed=1)
    noise, batch = network.sample_noise(torch.Generator().manual_seed(3)), batch_of(network)
    gradients = sample_gradients(network, *batch, noise)
    assert {"output.linear.weight", "output.linear.weight_sigma"} <= set(gradients.factors)
    expected = plain_kernel(network, *batch, noise)
    kernel = empirical_ntk.empirical_ntk(gradients).double()
    torch.testing.assert_close(kernel, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert not torch.allclose(kernel, plain_kernel(network, *batch), rtol=1e-2)


def test_shares_of_two_threads_at_once_make_the_same_kernel():
    network = build_network(BASE, 3, observation_shape=SHAPE, seed=1)
    batch = batch_of(network, size=8)
    whole = sample_gradients(network, *batch)
    parts = [None, None]

    def work(member):
        torch.set_num_threads(1)
        rows = slice(3 * member, 3 + 5 * member)
        parts[member] = sample_gradients(network, *(column[rows] for column in batch))

    threads = [threading.Thread(target=work, args=(member,)) for member in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kernels = [empirical_ntk.empirical_ntk(g) for g in (whole, SampleGradients.join(parts))]
    torch.testing.assert_close(kernels[1], kernels[0], rtol=1e-4, atol=1e-5)


class OddNetwork(nn.Module):
    """A layer used twice, one without bias, and a parameter that only some samples reach."""

    def __init__(self):
        super().__init__()
        self.config = BASE
        self.first, self.twice = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 3, bias=False)
        self.rare = nn.Parameter(torch.randn(3))
        self.never = nn.Parameter(torch.zeros(3))

    def forward(self, observation, noise=None):
        dtype = self.rare.dtype
        x = observation.flatten(1)[:, :4].to(dtype) / 255
        q_values = self.last(functional.relu(self.twice(self.twice(self.first(x)))))
        return (
            NetworkOutput(q_values + torch.where(x[:, :1] > 0.5, self.rare, 0.0), None, q_values, None)
            if bool((x[:, :1] > 0.5).any())
            else NetworkOutput(q_values, None, q_values, None)
        )


def test_a_users_network_of_any_kind():
    torch.manual_seed(0)
    network = OddNetwork()
    observation = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8)
    observation[:, 0, 0, 0] = torch.tensor([0, 255, 0, 255, 255, 0])
    batch = observation, torch.tensor([0, 1, 2, 0, 1, 2]), torch.randn(6)
    gradients = sample_gradients(network, *batch)
    assert set(gradients.factors) == {"first.weight"}
    assert "never" not in gradients.rows
    torch.testing.assert_close(
        empirical_ntk.empirical_ntk(gradients).double(), plain_kernel(network, *batch), rtol=1e-4, atol=1e-6
    )
    halves = [
        sample_gradients(network, *(column[rows] for column in batch)) for rows in ([0, 2], [1, 3, 4, 5])
    ]
    assert "rare" not in halves[0].rows
    order = [0, 2, 1, 3, 4, 5]
    joined = empirical_ntk.empirical_ntk(SampleGradients.join(halves)).double()
    torch.testing.assert_close(joined, plain_kernel(network, *batch)[order][:, order], rtol=1e-4, atol=1e-6)


def test_large_networks_have_kernels_of_fewer_samples(monkeypatch):
    network = build_network(BASE, 3, observation_shape=SHAPE)
    stored = sum(p.numel() for p in network.parameters() if p.ndim != 2)
    kept = sum(row[0].numel() for row in sample_gradients(network, *batch_of(network, 1)).rows.values())
    assert kept <= 1.2 * stored, "the estimate covers what is kept, but for a few small matrices"
    monkeypatch.setattr(empirical_ntk, "MAX_NUMBERS", 7 * stored)
    assert max_samples(network) == 7
    monkeypatch.setattr(empirical_ntk, "MAX_NUMBERS", 1)
    assert max_samples(network) == 2
