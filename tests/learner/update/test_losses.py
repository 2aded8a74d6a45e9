"""Losses by hand and against slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.update import losses

SUPPORT = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
finite = st.floats(-50, 50, allow_nan=False, width=32)


def test_projection_by_hand():
    probabilities = torch.tensor([[0.2, 0.3, 0.1, 0.4, 0.0]] * 3)
    atoms = torch.tensor(
        [
            [-2.0, -1.0, 0.0, 1.0, 2.0],  # On the support: nothing moves.
            [
                -1.75,
                -0.75,
                0.25,
                1.25,
                2.25,
            ],  # A quarter up: a quarter of each mass moves on, the last is cut.
            [7.0, 7.0, -9.0, 0.5, 0.0],  # Beyond both ends, and halfway.
        ]
    )
    expected = torch.tensor(
        [[0.2, 0.3, 0.1, 0.4, 0.0], [0.15, 0.275, 0.15, 0.325, 0.1], [0.1, 0.0, 0.2, 0.2, 0.5]]
    )
    torch.testing.assert_close(losses.project(probabilities, atoms, SUPPORT), expected)


def _slow_project(probabilities, atoms, support):
    """Mass by mass in plain floats."""
    spacing = support[1] - support[0]
    result = [0.0] * len(support)
    for probability, atom in zip(probabilities, atoms, strict=True):
        place = (min(max(atom, support[0]), support[-1]) - support[0]) / spacing
        low = min(int(place), len(support) - 2)
        result[low] += probability * (low + 1 - place)
        result[low + 1] += probability * (place - low)
    return result


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), finite), min_size=2, max_size=9), st.floats(0.5, 20))
def test_projection_is_the_slow_loop(pairs, v_max):
    support = torch.linspace(-v_max, v_max, len(pairs), dtype=torch.float64)
    weights, atoms = torch.tensor(pairs, dtype=torch.float64).T
    probabilities = weights / weights.sum()
    actual = losses.project(probabilities[None], atoms[None], support)[0]
    expected = _slow_project(probabilities.tolist(), atoms.tolist(), support.tolist())
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    assert actual.sum().item() == pytest.approx(1.0)
    mean = (probabilities * atoms.clamp(-v_max, v_max)).sum()
    assert (actual @ support).item() == pytest.approx(mean.item(), abs=1e-8)


def test_c51_target_by_hand():
    """Action 1 is judged: all mass on atom +1, so 0.5 + 0.5 * 1 = 1; a true end leaves 0.5."""
    sure = torch.full((5,), -100.0)
    sure[3] = 100.0
    next_logits = torch.stack([torch.zeros(5), sure]).expand(2, 2, 5)
    target = losses.c51_target(
        next_logits, torch.tensor([1, 1]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.0]), SUPPORT
    )
    torch.testing.assert_close(target, torch.tensor([[0.0, 0, 0, 1, 0], [0, 0, 0.5, 0.5, 0]]))


def test_c51_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    target = torch.tensor([[0.25, 0.75]])
    expected = -(0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    assert losses.c51_loss(logits, torch.tensor([1]), target).item() == pytest.approx(expected)
    assert losses.c51_loss(logits, torch.tensor([0]), target).item() == pytest.approx(math.log(2))


def test_huber_by_hand():
    next_q = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    action, reward, discount = torch.tensor([1, 0]), torch.tensor([0.5, -1.0]), torch.tensor([0.9, 0.0])
    target = losses.scalar_target(next_q, action, reward, discount)
    torch.testing.assert_close(target, torch.tensor([4.1, -1.0]))
    q_values = torch.tensor([[3.9, 0.0], [0.0, 1.5]])
    loss = losses.huber_loss(q_values, torch.tensor([0, 1]), target)
    torch.testing.assert_close(loss, torch.tensor([0.5 * 0.2**2, 2.5 - 0.5]))


def test_the_squared_error_has_no_half():
    q_values, target = torch.tensor([[3.9, 0.0], [0.0, 1.5]]), torch.tensor([4.1, -1.0])
    loss = losses.squared_loss(q_values, torch.tensor([0, 1]), target)
    torch.testing.assert_close(loss, torch.tensor([0.2**2, 2.5**2]))


def test_quantile_target_by_hand():
    next_quantiles = torch.tensor([[[9.0, 9.0], [1.0, 4.0]]]).expand(2, 2, 2)
    reward, discount = torch.tensor([0.5, -1.0]), torch.tensor([0.5, 0.0])
    target = losses.quantile_target(next_quantiles, torch.tensor([1, 1]), reward, discount)
    torch.testing.assert_close(target, torch.tensor([[1.0, 2.5], [-1.0, -1.0]]))


def _slow_quantile_loss(own, samples):
    """Pair by pair in plain floats."""
    total = 0.0
    for i, quantile in enumerate(own):
        probability = (2 * i + 1) / (2 * len(own))
        for sample in samples:
            size = abs(sample - quantile)
            huber = size**2 / 2 if size <= 1 else size - 0.5
            total += (1 - probability if sample < quantile else probability) * huber / len(samples)
    return total


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=7))
def test_quantile_loss_is_the_slow_loop(pairs):
    own, samples = torch.tensor(pairs, dtype=torch.float64).T
    quantiles = torch.stack([torch.full_like(own, 3.0), own])[None]
    actual = losses.quantile_loss(quantiles, torch.tensor([1]), samples[None])
    assert actual.item() == pytest.approx(_slow_quantile_loss(own.tolist(), samples.tolist()), abs=1e-9)


def _quantile_loss_of_pairs(quantiles, action, target):
    """The published formula as it stands: every quantile with every sample."""
    own = losses.of_action(quantiles, action).unsqueeze(2)
    errors = target.unsqueeze(1) - own
    probability = (torch.arange(own.shape[1], dtype=own.dtype) + 0.5) / own.shape[1]
    huber = torch.where(errors.abs() <= 1, errors.square() / 2, errors.abs() - 0.5)
    return ((probability[:, None] - (errors < 0).to(own.dtype)).abs() * huber).mean(dim=2).sum(dim=1)


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 1e4])
def test_sorted_samples_give_the_loss_and_gradient_of_all_pairs(scale):
    """Also for ties, equal samples and errors of exactly 0 and 1 (scale 0), and for errors of thousands."""
    generator = torch.Generator().manual_seed(1)
    shape = (4, 3, 200)
    if scale:
        quantiles, target = torch.randn(2, *shape, generator=generator).double() * scale
    else:
        quantiles, target = torch.randint(-3, 4, (2, *shape), generator=generator).double()
    action, target = torch.tensor([0, 2, 1, 0]), target[:, 0]
    quantiles.requires_grad_()
    ours, plain = (f(quantiles, action, target) for f in (losses.quantile_loss, _quantile_loss_of_pairs))
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss.sum(), quantiles)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_quantile_or_sample_that_is_not_finite_gives_a_loss_that_is_not(bad):
    good, broken, action = torch.zeros(1, 1, 5), torch.zeros(1, 1, 5), torch.zeros(1, dtype=torch.int64)
    broken[0, 0, 2] = bad
    for quantiles, target in ((broken, good[0]), (good, broken[0])):
        assert not losses.quantile_loss(quantiles, action, target).isfinite().any()


def test_quantiles_go_to_those_of_the_samples():
    """Samples 0, 100, ..., 900, far from each other beside kappa: ten quantiles settle one at each."""
    samples = torch.arange(10.0)[None] * 100
    quantiles = torch.full((1, 1, 10), 450.0, requires_grad=True)
    optimizer = torch.optim.SGD([quantiles], lr=20.0)
    for step in range(2_000):
        optimizer.param_groups[0]["lr"] = 20.0 * 0.997**step
        optimizer.zero_grad()
        losses.quantile_loss(quantiles, torch.zeros(1, dtype=torch.int64), samples).sum().backward()
        optimizer.step()
    torch.testing.assert_close(quantiles.detach()[0], samples, atol=20.0, rtol=0)


def test_double_chooses_with_the_online_network():
    target_q, online_q = torch.tensor([[1.0, 5.0]]), torch.tensor([[9.0, 2.0]])
    assert losses.next_action(target_q).item() == 1
    assert losses.next_action(target_q, online_q).item() == 0
    judged = losses.scalar_target(
        target_q, losses.next_action(target_q, online_q), torch.zeros(1), torch.ones(1)
    )
    assert judged.item() == 1.0


def test_shapes_are_checked_at_the_door():
    logits, action = torch.zeros(2, 3, 5), torch.zeros(2, dtype=torch.int64)
    ones = torch.ones(2)
    with pytest.raises(ValueError, match="target"):
        losses.c51_loss(logits, action, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="reward"):
        losses.c51_target(logits, action, torch.ones(2, 1), ones, SUPPORT)
    with pytest.raises(ValueError, match="discount"):
        losses.c51_target(logits, action, ones, torch.ones(3), SUPPORT)
    with pytest.raises(ValueError, match="support has shape"):
        losses.c51_target(logits, action, ones, ones, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="support"):
        losses.c51_target(logits, action, ones, ones, SUPPORT[:4])
    with pytest.raises(ValueError, match="action"):
        losses.huber_loss(torch.zeros(2, 3), action[:1], ones)
    with pytest.raises(ValueError, match="target"):
        losses.huber_loss(torch.zeros(2, 3), action, torch.ones(2, 1))
    with pytest.raises(ValueError, match="target"):
        losses.squared_loss(torch.zeros(2, 3), action, torch.ones(2, 1))
    with pytest.raises(ValueError, match="target"):
        losses.quantile_loss(logits, action, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="reward"):
        losses.quantile_target(logits, action, torch.ones(2, 1), ones)
    with pytest.raises(ValueError, match="discount"):
        losses.quantile_target(logits, action, ones, torch.ones(3))
    with pytest.raises(ValueError, match="online_q_values"):
        losses.next_action(torch.zeros(2, 3), torch.zeros(2, 2))
