"""Features that differ from state to state, and features that do not."""

import numpy as np
import pytest
import torch

from learner.diagnostics.diagnostics import Diagnostics
from learner.diagnostics.ranks import singular_values, srank
from learner.diagnostics.spread import ROWS, deviation_over_rms, spread
from tests.helpers.learner.diagnosed import SIZE, make_batch, make_step


def test_the_ratio_by_hand() -> None:
    assert deviation_over_rms(torch.full((5, 3), 7.0)) == 0.0
    assert deviation_over_rms(torch.zeros(5, 3)) == 0.0
    assert deviation_over_rms(torch.tensor([[1.0, -2.0], [-1.0, 2.0]])) == pytest.approx(1.0)
    rows = torch.tensor([[3.0, 1.0], [5.0, 1.0]])  # variances 1 and 0; squares 9, 25, 1, 1
    assert deviation_over_rms(rows) == pytest.approx((0.5 / 9.0) ** 0.5)


@pytest.mark.parametrize("head", ["soft_moe", "dense", "pooled"])
def test_it_is_of_the_networks_own_features_and_values(head: str) -> None:
    step, states = (
        make_step(head=head),
        torch.from_numpy(make_batch(np.random.default_rng(0), 130).observation),
    )
    statistics, seen = spread(step.online_network, states), []
    step.online_network.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        q_values = step.online_network(states).q_values
    assert statistics["spread/features"] == pytest.approx(deviation_over_rms(seen[0]), rel=1e-4)
    assert statistics["spread/q"] == pytest.approx(deviation_over_rms(q_values), rel=1e-3)
    assert statistics["srank_wide"] == srank(singular_values(seen[0]))
    assert statistics["srank_centred"] == srank(singular_values(seen[0] - seen[0].mean(dim=0)))
    assert statistics["spread_rows"] == 130


def test_a_head_that_does_not_see_its_input_shows() -> None:
    """Large constant features hide the states: the rank of all is one, that without the mean is not."""
    step, states = (
        make_step(head="dense"),
        torch.from_numpy(make_batch(np.random.default_rng(0), 64).observation),
    )
    sees = spread(step.online_network, states)
    with torch.no_grad():
        step.online_network.head.hidden.bias.add_(1_000.0)
    blind = spread(step.online_network, states)
    assert blind["spread/features"] < 0.01 < 10 * 0.01 < sees["spread/features"]
    assert blind["spread/encoder"] == sees["spread/encoder"]
    assert blind["srank_wide"] == 1
    assert blind["srank_centred"] > 1


@pytest.mark.parametrize("period", [3, 100])
def test_it_looks_at_the_states_of_the_batches_up_to_its_update(period: int, tmp_path) -> None:
    """And of no other: those of the last 512 rows, or since the diagnosis before."""
    step, written = make_step(), []
    diagnostics = Diagnostics(step, period, folder=tmp_path, write=written.append)
    rng = np.random.default_rng(1)
    batches = [make_batch(rng) for _ in range(2 * period)]
    for update, batch in enumerate(batches, 1):
        with diagnostics.watch(update, 100 * update, batch):
            pass
    assert [metrics["diagnostics/spread_rows"] for metrics in written] == [min(ROWS, SIZE * period)] * 2
    recent = np.concatenate([b.observation for b in batches[::-1]][: min(period, ROWS // SIZE)])
    expected = spread(step.online_network, torch.from_numpy(recent))
    for name in ("spread/features", "srank_centred"):
        assert written[1][f"diagnostics/{name}"] == pytest.approx(expected[name], rel=1e-5)
