"""A block around a mixture: x + mixture(LayerNorm(x))."""

import pytest
import torch
from torch.nn import functional

from models.config import MOE_HEADS, NetworkConfig
from models.mixtures.heads import MoEHead, build_head


def head_of(head: str, **changes) -> MoEHead:
    config = NetworkConfig(head=head, num_experts=2, expert_hidden_units=5, **changes)
    built = build_head(config, 9, 6, sigma=None, generator=torch.Generator().manual_seed(0))
    assert isinstance(built, MoEHead)
    return built


def tokens_of(seed: int = 1) -> torch.Tensor:
    return 3.0 + 2.0 * torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", MOE_HEADS)
def test_the_residual_is_of_the_tokens_before_the_norm(head: str) -> None:
    plain, block, tokens = head_of(head), head_of(head, residual=True, token_norm=True), tokens_of()
    normed = functional.layer_norm(tokens, (6,))
    expected = tokens + plain.moe(normed).tokens
    torch.testing.assert_close(block(tokens, None).features, expected.flatten(1))


@pytest.mark.parametrize("head", MOE_HEADS)
def test_each_is_an_option_of_its_own(head: str) -> None:
    plain, tokens = head_of(head), tokens_of()
    mixed = plain(tokens, None).features
    residual = head_of(head, residual=True)(tokens, None).features
    torch.testing.assert_close(residual, tokens.flatten(1) + mixed)
    normed = head_of(head, token_norm=True)(tokens, None).features
    torch.testing.assert_close(normed, plain(functional.layer_norm(tokens, (6,)), None).features)


def test_they_change_no_initial_weight_of_the_mixture() -> None:
    """So that arms with and without them begin alike."""
    plain, block = head_of("soft_moe"), head_of("soft_moe", residual=True, token_norm=True)
    others = dict(block.moe.named_parameters())
    assert all(torch.equal(others[name], p) for name, p in plain.moe.named_parameters())
    assert {name for name, _ in block.named_parameters()} - {f"moe.{name}" for name in others} == {
        "norm.weight",
        "norm.bias",
    }


def test_position_is_in_the_features_where_all_slots_are_alike() -> None:
    """Slots that are all the mean token come out alike at every position; past the mixture they do not."""
    tokens = tokens_of()
    for residual, distinct in ((False, 1), (True, 9)):
        head = head_of("soft_moe", residual=residual)
        with torch.no_grad():
            head.moe.phi.zero_()
        rows = head(tokens, None).features.view(4, 9, 6)[0]
        assert len({tuple(row.round(decimals=3).tolist()) for row in rows}) == distinct
