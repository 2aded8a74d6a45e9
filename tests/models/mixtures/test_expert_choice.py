"""Expert choice against a float64 loop over experts and tokens; ties and slots by hand, noisy experts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mixtures.expert_choice import ExpertChoiceMoE
from models.values.noisy import LayerNoise, Noise
from tests.helpers.models.mixtures import assert_same_gradients, expert_output, randomise


def _layer(num_tokens=10, width=6, num_experts=3, hidden=5, sigma=None, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"num_experts": num_experts, "hidden": hidden, "sigma": sigma}
    layer = ExpertChoiceMoE(num_tokens, width, generator=generator, **sizes, **options)
    return randomise(layer, generator)


def _slow(layer, tokens, noise=None):
    """One sample, one expert, one slot after the other."""
    rows = []
    for sample, x in enumerate(tokens):
        exponentials = (x @ layer.router).exp()
        probabilities = exponentials / exponentials.sum(dim=1, keepdim=True)
        mixed = [torch.zeros_like(token) for token in x]
        for expert in range(layer.num_experts):
            ranked = sorted(range(len(x)), key=lambda t, e=expert, p=probabilities: -p[t, e].item())
            for t in ranked[: layer.num_slots]:
                output = expert_output(layer, expert, x[t], noise, sample)
                mixed[t] = mixed[t] + probabilities[t, expert] * output
        rows.append(torch.stack(mixed))
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    num_tokens=st.integers(1, 9),
    num_experts=st.integers(1, 5),
    capacity_factor=st.sampled_from([0.3, 1.0, 2.5, 9.0]),
    seed=st.integers(0, 1000),
)
def test_forward_and_backward_are_those_of_the_loop(batch, num_tokens, num_experts, capacity_factor, seed):
    options = {"num_tokens": num_tokens, "num_experts": num_experts, "capacity_factor": capacity_factor}
    tokens = torch.randn(batch, num_tokens, 6, generator=torch.Generator().manual_seed(seed))
    pair = (_layer(**options, seed=seed), _layer(**options, seed=seed))
    assert_same_gradients(*pair, tokens, lambda layer, x: layer(x).tokens, _slow)


@pytest.mark.parametrize("rows", [1, 4])
def test_noisy_experts(rows):
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randn(4, 10, 6, generator=generator)
    draw = LayerNoise(torch.randn(rows, 6, generator=generator), torch.randn(rows, 5, generator=generator))
    noise, layer = Noise(draw, None), _layer(sigma=0.5)
    assert_same_gradients(
        layer, layer, tokens, lambda m, x: m(x, noise).tokens, lambda m, x: _slow(m, x, noise)
    )


def test_every_slot_is_filled_and_the_first_of_equal_tokens_is_taken():
    layer = _layer(num_tokens=5, num_experts=2, capacity_factor=0.8)
    with torch.no_grad():
        layer.router.zero_()
        layer.router[0, 0] = 1.0
    tokens = torch.zeros(1, 5, 6)
    tokens[0, :, 0] = torch.tensor([0.0, 3.0, 3.0, 3.0, -1.0])
    output = layer(tokens)
    assert (output.dispatch_weights.sum(dim=1) == 1).all(), "one token a slot"
    # Expert 0 likes tokens 1 to 3 alike, expert 1 prefers token 4, then token 0.
    assert output.dispatch_weights[0, :, 0].argmax(dim=0).tolist() == [1, 2]
    assert output.dispatch_weights[0, :, 1].argmax(dim=0).tolist() == [4, 0]
    assert (output.tokens[0, 3] == 0).all(), "which nobody took"
    assert output.auxiliary_loss is None


def test_a_state_does_not_depend_on_its_batch():
    layer, tokens = _layer(), torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(tokens).tokens[1:2], layer(tokens[1:2]).tokens)


def test_no_more_slots_than_tokens():
    assert _layer(num_tokens=3, num_experts=2, capacity_factor=9.0).num_slots == 3
    assert _layer(num_tokens=10, num_experts=3).num_slots == 4
