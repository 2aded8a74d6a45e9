"""The pure functions under the diagnostics, against plain numpy and against cases with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from learner.diagnostics import dormancy, gates, norms, ranks, reference_statistics
from learner.diagnostics.diagnosis import dormant_shares, td_error_statistics
from learner.update.losses import td_errors
from models.config import NetworkConfig
from models.q_network import NetworkOutput, build_network


def of_rank(rows, columns, singular, seed=0):
    """A float32 matrix with the given singular values."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(singular))))
    right, _ = np.linalg.qr(rng.normal(size=(columns, len(singular))))
    return torch.from_numpy((left * singular @ right.T).astype(np.float32))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_singular_values_are_numpys(rows, columns, seed):
    matrices = np.random.default_rng(seed).normal(size=(2, 3, rows, columns)).astype(np.float32)
    expected = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(ranks.singular_values(torch.from_numpy(matrices)), expected, atol=1e-6)


def test_ranks_of_a_matrix_with_known_singular_values():
    values = ranks.singular_values(of_rank(20, 30, [100.0, 50.0, 2.0, 0.5, 0.05]))
    assert [ranks.count_above(values, t) for t in (0.3, 0.01, 0.001, 1e-4)] == [2, 3, 4, 5]
    # 100 / 152.55 = 0.656, then 0.983, 0.9964, 0.9997
    assert [ranks.srank(values, delta) for delta in (0.5, 0.1, 0.01, 0.001)] == [1, 2, 3, 4]
    assert [ranks.srank(ranks.singular_values(torch.eye(7)), d) for d in (0.01, 0.2, 0.9)] == [7, 6, 1]
    assert ranks.srank(ranks.singular_values(torch.ones(6, 4))) == 1
    assert ranks.srank(torch.zeros(5)) == ranks.count_above(torch.zeros(5), 0.0) == 0


def test_the_largest_of_all_matrices_is_what_counts():
    values = ranks.singular_values(torch.stack([100.0 * torch.eye(3), torch.eye(3)]))
    assert [ranks.count_above(values, t) for t in (0.001, 0.1)] == [6, 3]


def test_the_definition_of_srank_on_random_values():
    rng = np.random.default_rng(1)
    for _ in range(20):
        values = np.sort(rng.exponential(size=rng.integers(1, 30)))[::-1].copy()
        shares = np.cumsum(values) / values.sum()
        expected = next(k for k, share in enumerate(shares, 1) if share >= 0.9 - 1e-12)
        assert ranks.srank(torch.from_numpy(values), 0.1) == expected


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 2, 5)])
def test_variances_norm_and_dormant_features(shape):
    features = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    features[..., 0] = 0.3  # the same for all samples: no variance, whatever the rounding
    features[..., 1] *= 0.01
    variances = dormancy.feature_variances(torch.from_numpy(features))
    expected = features.astype(np.float64).var(axis=0)
    np.testing.assert_allclose(variances, expected, atol=1e-12)
    assert dormancy.feature_norm(variances) == pytest.approx(np.linalg.norm(expected, axis=-1).mean())
    groups = expected.size // 5
    assert dormancy.dormant_features(variances, 0.0) == groups
    assert dormancy.dormant_features(variances, 0.001) == 2 * groups
    assert dormancy.dormant_features(variances, 1e9) == 5 * groups


def test_dormant_neurons_by_their_definition():
    activity = 7.0 * torch.tensor([0.0, 0.024, 0.026, 3.95], dtype=torch.float64)  # mean 7
    assert [dormancy.dormant_neurons(activity, tau) for tau in (0.0, 0.025, 0.03, 4.0)] == [1, 2, 3, 4]
    assert dormancy.dormant_neurons(torch.zeros(6)) == 6, "a layer without any activity"
    assert dormancy.dormant_neurons(torch.ones(6)) == 0


def test_activities_average_over_batch_and_positions():
    rng = np.random.default_rng(3)
    maps, hidden = rng.normal(size=(4, 3, 5, 6)), rng.normal(size=(4, 2, 7, 3))
    np.testing.assert_allclose(
        dormancy.channel_activity(torch.from_numpy(maps)), np.abs(maps).mean((0, 2, 3))
    )
    np.testing.assert_allclose(dormancy.head_activity(torch.from_numpy(hidden)), np.abs(hidden).mean((0, 2)))
    flat = torch.from_numpy(maps[:, :, 0, 0])
    np.testing.assert_allclose(dormancy.head_activity(flat), np.abs(maps[:, :, 0, 0]).mean(0))


def test_the_encoders_relus_are_found_in_order_with_their_dead_channels():
    network = build_network(
        NetworkConfig(encoder="nature", padding="valid", noisy=False, expert_hidden_units=8),
        3,
        observation_shape=(2, 44, 44),
    )
    with torch.no_grad():
        network.encoder.convolutions[1].bias[:10] = -1e6
        observation = torch.randint(0, 256, (3, 2, 44, 44), dtype=torch.uint8)
        with dormancy.EncoderActivity() as seen:
            output = network(observation)
        by_hand, expected = observation.float() / 255, []
        for convolution in network.encoder.convolutions:
            by_hand = convolution(by_hand).relu()
            expected.append(by_hand.mean(dim=(0, 2, 3)))
    assert [len(layer) for layer in seen.layers] == [32, 64, 64]
    for layer, activity in zip(seen.layers, expected, strict=True):
        torch.testing.assert_close(layer.float(), activity, rtol=1e-4, atol=1e-6)
    shares = dormant_shares(seen.layers, output.hidden)
    assert shares["encoder.1"] >= 10 / 64
    assert list(shares) == ["encoder.0", "encoder.1", "encoder.2", "head", "all"]
    counts = [shares[name] * size for name, size in zip(shares, (32, 64, 64, 4 * 8), strict=False)]
    assert shares["all"] == pytest.approx(sum(counts) / (32 + 64 + 64 + 4 * 8))


@pytest.mark.parametrize(
    "relu",
    [
        functional.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_,
        nn.ReLU(), nn.ReLU(inplace=True), functional.relu_,
    ],
)  # fmt: skip
def test_every_way_to_call_a_relu_is_recorded_once(relu):
    maps = torch.tensor([[-1.0, 2.0], [3.0, 4.0]]).view(2, 2, 1, 1)
    with dormancy.EncoderActivity() as seen:
        relu(maps.clone())
        relu(maps[:, :, 0, 0].clone())  # not over feature maps
    assert [layer.tolist() for layer in seen.layers] == [[1.5, 3.0]]


def soft_weights(rng, batch=3, tokens=7, experts=2, slots=4):
    logits = torch.from_numpy(rng.normal(size=(batch, tokens, experts * slots)))
    shape = (batch, tokens, experts, slots)
    return logits.softmax(1).view(shape), logits.softmax(2).view(shape)


def entropy(shares):
    return -sum(p * np.log(p) for p in shares if p > 0)


def test_shares_and_entropies_by_hand():
    dispatch, combine = soft_weights(np.random.default_rng(4))
    np.testing.assert_allclose(gates.expert_shares(dispatch), [0.5, 0.5])
    np.testing.assert_allclose(gates.expert_shares(combine), combine.sum((0, 1, 3)) / 21)
    by_slot = [entropy(dispatch[b, :, e, s].numpy()) for b in range(3) for e in range(2) for s in range(4)]
    assert gates.dispatch_entropy(dispatch) == pytest.approx(np.mean(by_slot) / np.log(7))
    by_token = [entropy(combine[b, t].flatten().numpy()) for b in range(3) for t in range(7)]
    assert gates.combine_entropy(combine) == pytest.approx(np.mean(by_token) / np.log(8))


def test_entropies_of_the_extremes():
    even = torch.full((2, 5, 2, 3), 0.2)
    assert gates.dispatch_entropy(even) == pytest.approx(1.0)
    assert gates.combine_entropy(even) == pytest.approx(1.0)
    hard = torch.zeros(2, 5, 2, 3)
    hard[:, 0, 0, 0] = hard[:, 1, 0, 1] = hard[:, 3, 1, 0] = 0.4  # tokens 2 and 4 found no slot
    assert gates.dispatch_entropy(hard) == gates.combine_entropy(hard) == 0.0
    assert gates.dropped_token_share(hard) == pytest.approx(0.4)
    np.testing.assert_allclose(gates.expert_shares(hard), [2 / 3, 1 / 3])
    nothing = torch.zeros(2, 5, 2, 3)
    assert gates.dispatch_entropy(nothing) == gates.combine_entropy(nothing) == 0.0
    assert gates.expert_shares(nothing).tolist() == [0.0, 0.0]
    assert gates.combine_entropy(torch.ones(2, 5, 1, 1)) == 0.0, "one slot leaves no choice"


def test_norms_by_part_and_by_expert():
    network = build_network(
        NetworkConfig(num_experts=3, expert_hidden_units=4), 2, observation_shape=(1, 30, 30)
    )
    tensors = {name: torch.randn(p.shape) for name, p in network.named_parameters()}
    by_part = norms.norms_by_part(tensors)
    assert set(by_part) == {"encoder", "head", "output"}
    for part, norm in by_part.items():
        values = np.concatenate([t.numpy().ravel() for n, t in tensors.items() if n.startswith(f"{part}.")])
        assert norm == pytest.approx(np.linalg.norm(values), rel=1e-5)
    names = [name for name in tensors if ".experts." in name]
    assert len(names) == 6, "kernels and biases, and the noise's scales of the first"
    for expert, norm in enumerate(norms.expert_gradient_norms(network, tensors)):
        values = np.concatenate([tensors[name][expert].numpy().ravel() for name in names])
        assert norm == pytest.approx(np.linalg.norm(values), rel=1e-5)
    assert norms.expert_gradient_norms(nn.Linear(2, 2), {}) == []


def output_of(q_values, logits=None, quantiles=None):
    return NetworkOutput(q_values, logits, torch.zeros(len(q_values), 1), None, quantiles)


def test_td_errors():
    q_values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    action, support = torch.tensor([0, 1, 1]), torch.tensor([-1.0, 0.0, 1.0])
    errors = td_errors(output_of(q_values), action, torch.tensor([1.5, 0.0, 6.0]), support)
    assert errors.tolist() == [0.5, -4.0, 0.0]
    found = td_error_statistics(errors)
    assert found["td_error_mean"] == pytest.approx(-3.5 / 3)
    assert found["td_error_std"] == pytest.approx(np.std([0.5, -4.0, 0.0]))
    assert (found["td_error_max"], found["td_error_p50"]) == (4.0, 0.5)
    assert found["td_error_p90"] == pytest.approx(np.quantile([0.5, 4.0, 0.0], 0.9))
    target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    distributional = output_of(q_values, torch.zeros(3, 2, 3))
    assert td_errors(distributional, action, target, support).tolist() == [-1.5, -3.0, -6.0]
    quantiles, target = torch.zeros(3, 2, 2), torch.tensor([[0.0, 3.0], [4.0, 4.0], [9.0, 5.0]])
    assert td_errors(output_of(q_values, None, quantiles), action, target, support).tolist() == [
        0.5,
        0.0,
        1.0,
    ]


def test_kernel_statistics():
    kernel = np.array([[4.0, 1.0, -2.0], [1.0, 0.0, 0.0], [-2.0, 0.0, 5.0]])
    found = reference_statistics.kernel_statistics(torch.from_numpy(kernel))
    assert found["entk_diagonal_mean"] == pytest.approx(3.0)
    assert found["entk_diagonal_std"] == pytest.approx(np.std([4.0, 0.0, 5.0]))
    assert found["entk_off_diagonal_mean"] == pytest.approx(-2.0 / 6)
    assert found["entk_negative_frac"] == pytest.approx(2 / 9)
    assert found["entk_positive_frac"] == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (ranks.singular_values, (torch.zeros(3),)),
        (ranks.srank, (torch.zeros(3, 3),)),
        (dormancy.feature_variances, (torch.zeros(3),)),
        (dormancy.channel_activity, (torch.zeros(3, 3, 3),)),
        (gates.expert_shares, (torch.zeros(3, 3, 3),)),
        (reference_statistics.kernel_statistics, (torch.zeros(3, 2),)),
        (reference_statistics.kernel_statistics, (torch.zeros(1, 1),)),
    ],
)
def test_shapes_are_checked(function, arguments):
    with pytest.raises(ValueError, match="shape"):
        function(*arguments)


def test_a_top_k_layer_has_its_own_outputs_in_the_references_matrix():
    """Sums of squares by hand: what the reference's Top-k network returns, and what its Soft MoE returns."""
    rng = np.random.default_rng(5)
    values = {
        name: torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        for name, shape in {
            "tokens": (2, 5, 3),
            "router_probabilities": (2, 5, 4),
            "hidden": (2, 4, 2, 6),
            "router_logits": (2, 5, 4),
        }.items()
    }
    q_values = torch.from_numpy(rng.normal(size=(2, 3)).astype(np.float32))
    probabilities = values["router_probabilities"].numpy()
    shared = [q_values, values["hidden"], values["hidden"], values["tokens"], probabilities]
    top_k = [*shared, values["router_logits"], probabilities.max(2), probabilities.argmax(2)]
    soft = [*shared, probabilities.argmax(2)]
    for arrays, logits in ((top_k, values["router_logits"]), (soft, None)):
        rows = np.concatenate([np.asarray(a, np.float64).reshape(2, -1) for a in arrays], axis=1)
        moe = SimpleNamespace(**(values | {"router_logits": logits}))
        gram = reference_statistics.outputs_gram(NetworkOutput(q_values, None, values["hidden"], moe))
        np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-5)
