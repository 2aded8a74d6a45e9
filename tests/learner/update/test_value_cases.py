"""Targets, losses and gradients of quantiles and scalar values are the public JAX code's, on small cases."""

import json

import numpy as np
import pytest
import torch

from learner.update import losses
from models.q_network import NetworkOutput
from replay.items.priorities import PRIORITY_EPSILON
from tests.helpers.root import ROOT

CASES = json.loads((ROOT / "tests" / "golden" / "values.json").read_text())
LOSSES = {"huber": "huber", "mse": "squared"}


def arrays_of(case):
    """The case's numbers as tensors; actions are int64, all others float32."""
    tensors = {n: torch.tensor(v) for n, v in case.items() if n != "loss_type"}
    return {n: t if n == "action" else t.float() for n, t in tensors.items()}


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours.detach().numpy(), theirs.numpy(), rtol=0.0, atol=1e-6)


def compare(case, outputs_of, target_of, loss="huber"):
    """Our target, losses and gradient of the mean loss, with the networks' tables (B, A, Z) as outputs."""
    a = arrays_of(case)
    discount = a["gamma"] * (1.0 - a["terminal"])
    online = a["online"].requires_grad_()
    action = losses.next_action(a["target"].mean(dim=2))
    target = target_of(a["target"], action, a["reward"], discount)
    assert_equal(target, a.get("target_quantiles", a.get("target_values")))
    found = losses.sample_losses(outputs_of(online), a["action"], target, loss)
    assert_equal(found, a["loss"])
    assert_equal(found.mean(), a["mean_loss"])
    (gradient,) = torch.autograd.grad(found.mean(), online)
    assert_equal(gradient, a["gradient"])
    return found, a


@pytest.mark.parametrize("case", CASES["quantile"], ids=range(len(CASES["quantile"])))
def test_quantile_regression(case):
    found, arrays = compare(
        case, lambda table: NetworkOutput(table.mean(2), None, table, None, table), losses.quantile_target
    )
    assert_equal((found + PRIORITY_EPSILON) ** 0.5, arrays["priorities"])


@pytest.mark.parametrize("case", CASES["scalar"], ids=range(len(CASES["scalar"])))
def test_scalar_values(case):
    compare(
        case,
        lambda table: NetworkOutput(table.squeeze(2), None, table, None),
        lambda table, *rest: losses.scalar_target(table.squeeze(2), *rest),
        LOSSES[case["loss_type"]],
    )


def test_the_cases_reach_every_branch():
    """True ends and others; errors below, at and above kappa, of both signs; both losses of scalars."""
    assert {case["loss_type"] for case in CASES["scalar"]} == set(LOSSES)
    errors = []
    for case in CASES["quantile"]:
        arrays = arrays_of(case)
        assert set(arrays["terminal"].tolist()) == {0.0, 1.0}
        own = losses.of_action(arrays["online"], arrays["action"])
        errors.append((arrays["target_quantiles"].unsqueeze(1) - own.unsqueeze(2)).flatten())
    errors = torch.cat(errors)
    for sign in (-1, 1):
        assert (sign * errors > 1).any()
        assert (sign * errors == 1).any()
        assert ((sign * errors > 0) & (sign * errors < 1)).any()
    assert (errors == 0).any()
