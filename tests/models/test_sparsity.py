"""Sparsity of layers and masks, by hand and by a slow version; which parameters are kernels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.config import NetworkConfig
from models.q_network import build_network
from models.sparsity import kernels, layer_sparsities, lowest


def test_uniform_is_the_same_for_all() -> None:
    assert layer_sparsities([(3, 4), (5, 6, 7)], 0.7, "uniform") == [0.7, 0.7]


def test_erk_by_hand() -> None:
    # 100 and 400 weights, 20 and 50 in the sums of their shapes; half are kept: scale = 250 / 70.
    found = layer_sparsities([(10, 10), (10, 40)], 0.5, "erk")
    assert found == pytest.approx([1 - 250 / 70 * 20 / 100, 1 - 250 / 70 * 50 / 400])
    # The first layer would keep 10 / 4 times its weights: it keeps 4, the second 0.2 * 404 - 4.
    found = layer_sparsities([(2, 2), (20, 20)], 0.8, "erk")
    assert found == pytest.approx([0.0, 1 - (0.2 * 404 - 4) / 400])


@given(
    shapes=st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6),
    sparsity=st.floats(0.0, 0.99),
)
def test_erk_has_the_sparsity_asked_for(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    found = layer_sparsities(shapes, sparsity, "erk")
    sizes = [torch.Size(shape).numel() for shape in shapes]
    assert all(-1e-9 <= share < 1.0 for share in found)
    zeros = sum(share * size for share, size in zip(found, sizes, strict=True))
    assert zeros == pytest.approx(sparsity * sum(sizes), abs=1e-6 * sum(sizes))


def test_the_lowest_of_each_row_and_of_equals_the_first() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0], [0.0, 5.0, 2.0, 9.0]])
    assert lowest(scores, [2, 3]).tolist() == [[False, True, True, False], [True, True, True, False]]
    assert not lowest(scores, [0, 0]).any()


class Own(nn.Module):
    """A user's head."""

    def __init__(self, config: NetworkConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LayerNorm(num_tokens * width), nn.Linear(num_tokens * width, 8)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(tokens)
        return found


CASES = {
    "soft_moe": {"head.moe.experts.weight_in", "head.moe.experts.weight_out"},
    "top_k_moe": {"head.moe.experts.weight_in", "head.moe.experts.weight_out"},
    "expert_choice": {"head.moe.experts.weight_in", "head.moe.experts.weight_out"},
    "dense": {"head.hidden.weight"},
    "pooled": set(),
    "tests.models.test_sparsity:Own": {"head.inner.layers.2.weight"},
}


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("head", CASES)
def test_kernels_of_every_head(head: str, noisy: bool) -> None:
    block = {"token_norm": True} if head.endswith(("moe", "choice")) else {}
    config = NetworkConfig(encoder="nature", tokens="per_patch", head=head, noisy=noisy, **block)
    network = build_network(config, 3, observation_shape=(2, 44, 44))
    found = {kernel.name: kernel for kernel in kernels(network)}
    convolutions = {f"encoder.convolutions.{i}.weight" for i in range(3)} | {"tokenizer.embedding.weight"}
    assert set(found) == convolutions | CASES[head] | {"output.linear.weight"}
    for name, kernel in found.items():
        experts = config.num_experts if "experts" in name else 1
        assert (kernel.num_layers, kernel.shape) == (experts, tuple(kernel.parameter.shape[experts > 1 :]))
