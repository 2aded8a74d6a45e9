"""The reference's parameters: every golden case, and every kind of network, there and back."""

import json

import numpy as np
import pytest
import torch

from models.config import NetworkConfig
from models.q_network import build_network
from models.reference.dopamine import SOFT_MOE_SCALE, load_dopamine, to_dopamine
from models.reference.options import count, kind, network_config
from tests.helpers.root import ROOT

FOLDER = ROOT / "tests" / "golden"
SHAPE = (2, 44, 44)
SMALL = NetworkConfig(
    encoder="nature", padding="valid", expert_hidden_units=8, dense_hidden_units=8, num_atoms=5, patch_size=1
)


def _network(seed, **changes):
    config = NetworkConfig(**{**vars(SMALL), **changes})
    return build_network(config, 3, observation_shape=SHAPE, seed=seed)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_a_case_there_and_back(path):
    with np.load(path) as file:
        meta = json.loads(file["meta"].tobytes())
        arrays = {n.removeprefix("params/"): file[n] for n in file.files if n.startswith("params/")}
        state, q_values = file["state"], file["q_values"] if "q_values" in file.files else None
    network = build_network(network_config(meta), count(meta, "num_actions"))
    load_dopamine(network, arrays, agent=kind(meta))
    back = to_dopamine(network, agent=meta["kind"])
    assert back.keys() == arrays.keys()
    for name in arrays.keys() - {SOFT_MOE_SCALE}:
        np.testing.assert_array_equal(back[name], arrays[name].astype(np.float32), err_msg=name)
    if q_values is not None and not meta.get("noisy", False):
        with torch.no_grad():
            ours = network(torch.from_numpy(np.ascontiguousarray(state.transpose(0, 3, 1, 2)))).q_values
        np.testing.assert_allclose(ours, q_values, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("encoder", ["impala", "nature"])
@pytest.mark.parametrize("head", ["soft_moe", "top_k_moe", "dense"])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("agent", ["dqn", "rainbow"])
def test_round_trip(encoder, head, noisy, dueling, agent):
    changes = {"encoder": encoder, "head": head, "noisy": noisy, "dueling": dueling}
    source, copy = _network(1, **changes), _network(2, **changes)
    arrays = to_dopamine(source, agent=agent)
    load_dopamine(copy, arrays, agent=agent)
    for (name, a), b in zip(source.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert sum(array.size for array in arrays.values()) == sum(p.numel() for p in source.parameters()) + (
        head == "soft_moe"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": True},
        {"tokens": "per_patch", "patch_width": 7},
        {"tokens": "per_feature_map"},
        {"tokens": "per_sample"},
        {"encoder_width_scale": 0.5},
        {"num_experts": 3, "slim_experts": True},
        {"capacity_factor": 2.0},
        {"values": "scalar"},
        {"values": "quantile", "num_quantiles": 4},
    ],
    ids=str,
)
def test_round_trip_of_options(changes):
    source, copy = _network(1, **changes), _network(2, **changes)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    load_dopamine(copy, to_dopamine(source))
    for (name, a), b in zip(source.named_parameters(), copy.named_parameters(), strict=True):
        assert torch.equal(a, b[1]), name


def test_a_missing_parameter_is_named():
    arrays = to_dopamine(_network(1))
    del arrays["params/SoftMoE_0/phi_weights"]
    with pytest.raises(KeyError, match="phi_weights: is missing"):
        load_dopamine(_network(1), arrays)


def test_a_parameter_too_many_is_named():
    arrays = to_dopamine(_network(1)) | {"params/Dense_7/bias": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="Dense_7/bias: the network has no such parameter"):
        load_dopamine(_network(1), arrays)


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"kernel_mu: shape \(2, 64, 8\), the network has \(4, 64, 8\)"):
        load_dopamine(_network(1), to_dopamine(_network(1, num_experts=2)))


LACKING = [
    {"residual": True},
    {"centered_kernels": True},
    {"token_norm": True},
    {"phi": "fixed"},
    {"phi": "redrawn"},
    {"shuffle": "features"},
    {"shuffle": "tokens"},
    {"sparsity": 0.5},
    {"head": "expert_choice"},
]


@pytest.mark.parametrize("changes", LACKING, ids=str)
def test_what_the_reference_lacks_is_not_converted(changes):
    network, plain = _network(1, **changes), _network(1)
    with pytest.raises(ValueError, match=r": the reference has (no such (option|parameter)|a name for it)"):
        to_dopamine(network)
    with pytest.raises(ValueError, match=r": the reference has (no such (option|parameter)|a name for it)"):
        load_dopamine(network, to_dopamine(plain))


def test_what_the_reference_lacks_is_refused():
    config = NetworkConfig(encoder="impala", head="tests.models.reference.test_dopamine:OwnHead", noisy=False)
    network = build_network(config, 3, observation_shape=(4, 24, 24))
    with pytest.raises(ValueError, match=r"head\..*: the reference has no such parameter"):
        to_dopamine(network)


class OwnHead(torch.nn.Module):
    """A user's head."""

    def __init__(self, config, num_tokens, width):
        super().__init__()
        self.linear = torch.nn.Linear(num_tokens * width, 4)

    def forward(self, tokens):
        return self.linear(tokens.flatten(1))
