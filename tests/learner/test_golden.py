"""The whole update against numbers of the paper's reference code, through the functions training calls."""

import numpy as np
import pytest
import torch

from models.dopamine import to_dopamine
from tests.helpers.golden import GoldenCase

CASES = ["rainbow_impala_softmoe4", "dqn_impala_softmoe4"]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return GoldenCase.load(request.param)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_outputs(case):
    step = case.train_step()
    with torch.no_grad():
        output = step.online_network(torch.from_numpy(case.observation()))
    case.assert_close("q_values", output.q_values)
    case.assert_close("moe_values", output.soft_moe.tokens)
    case.assert_close("router_probabilities", output.soft_moe.combine_weights.mean(dim=-1))
    case.assert_close("experts_hidden", output.soft_moe.hidden)
    if case.meta["kind"] == "rainbow":
        case.assert_close("logits", output.logits)


def test_target_is_the_references(case):
    step = case.train_step()
    case.assert_close("target", step.target(step.to_device(case.batch())))


def test_updates(case):
    """Loss and gradients of the first update, then the values after three.

    The case regresses to a fixed target for its three steps, and so does training: the target network stands
    still and, with double, so do all greedy next actions of this batch.
    """
    step, batch = case.train_step(), case.batch()
    first = step.step(batch)
    case.assert_close("loss", first.priorities)
    case.assert_close("mean_loss", first.loss)
    gradients = to_dopamine(step.online_network, step.gradients())
    expected = case.section("grad_norm")
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        case.assert_close(f"grad_norm/{name}", np.linalg.norm(gradient.astype(np.float64)), 1e-6)
        case.assert_close(f"grad_mean/{name}", gradient.astype(np.float64).mean(), 1e-6)
    total = np.sqrt(sum(float(value) ** 2 for value in expected.values()))
    assert first.grad_norm == pytest.approx(total, rel=1e-3)
    for _ in range(2):
        step.step(batch)
    with torch.no_grad():
        q_values = step.online_network(torch.from_numpy(case.observation())).q_values
    case.assert_close("q_values_after_3_adam_steps", q_values)


def test_every_array_of_the_case_is_compared(case):
    compared = {
        "q_values",
        "logits",
        "moe_values",
        "router_probabilities",
        "experts_hidden",
        "target",
        "loss",
    }
    compared |= {"mean_loss", "q_values_after_3_adam_steps"}
    inputs = {"state", "next_state", "action", "reward", "terminal", "loss_weight"}
    sections = ("params/", "target_params/", "grad_norm/", "grad_mean/")
    assert {k for k in case.arrays if not k.startswith(sections)} - inputs <= compared
