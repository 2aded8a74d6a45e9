"""`python -m learner.parity` fails where training's own functions are wrong."""

import json

import numpy as np
import pytest
import torch

from learner.diagnostics import reference_statistics
from learner.parity import parity
from learner.parity.golden_case import CaseError, GoldenCase
from learner.update import losses, train_step
from learner.update.optimizer import FlatAdam
from models.q_network import QNetwork
from models.reference.dopamine import SOFT_MOE_SCALE
from tests.helpers.learner.golden import DQN, FOLDER, STATISTICS

pytestmark = pytest.mark.usefixtures("one_thread")
RAINBOW, NOISY = (FOLDER / f"rainbow_impala_softmoe4{rest}.npz" for rest in ("", "_noisy_eval"))
SQUARED, WIDE = (FOLDER / f"{name}_mse.npz" for name in ("dqn_nature_softmoe2", "dqn_impala_baseline_wide4"))
LATER = {"q_values_after_3_adam_steps"}
OF_THE_LOSS = LATER | {"loss", "mean_loss", "grad_norm", "grad_mean"}


@pytest.fixture(scope="module")
def found():
    """Return our numbers for the small case, and the case."""
    case = GoldenCase.load(DQN)
    return case, parity.compute(case, parity.build_step(case)[0])


def _scaled(function, change):
    """`function` with `change` made to its result."""
    return lambda *args, **kwargs: change(function(*args, **kwargs))


def _larger(gradients):
    """Gradients of samples, those of one parameter much larger: outputs dominate the case's kernel."""
    name = max(gradients.rows, key=lambda name: float(gradients.rows[name].norm()))
    gradients.rows[name] = 30 * gradients.rows[name]
    return gradients


def _over(path):
    return {name.partition("/")[0] for name in parity.report(GoldenCase.load(path))["over_tolerance"]}


FAULTS = {
    "network": (
        RAINBOW,
        QNetwork,
        "forward",
        lambda out: out._replace(q_values=out.q_values * 1.001, logits=out.logits * 1.001),
        {"q_values", "logits", "loss"},
    ),
    "experts": (
        NOISY,
        QNetwork,
        "forward",
        lambda out: out._replace(moe=out.moe._replace(hidden=out.moe.hidden + 0.01)),
        {"experts_hidden"},
    ),
    "c51 loss": (RAINBOW, losses, "c51_loss", lambda loss: loss * 1.001, {"loss", "mean_loss", "grad_norm"}),
    "huber loss": (DQN, losses, "huber_loss", lambda loss: loss * 1.002, {"loss", "mean_loss", "grad_norm"}),
    "c51 target": (RAINBOW, losses, "c51_target", lambda target: target * 1.01, {"target", "loss"}),
    "projection": (RAINBOW, losses, "project", lambda target: target.roll(1, 1), {"target", "loss"}),
    "scalar target": (DQN, losses, "scalar_target", lambda target: target + 0.001, {"target", "loss"}),
    "next action": (RAINBOW, losses, "next_action", lambda action: (action + 1) % 3, {"target", "loss"}),
    "target": (DQN, train_step.TrainStep, "target", lambda target: target - 0.001, {"target", "loss"}),
    "gradient": (
        DQN,
        torch.autograd,
        "grad",
        lambda gradients: [1.002 * g for g in gradients],
        {"grad_norm"},
    ),
    # These are called by training's diagnoses and by the statistics of a case.
    "statistics": (
        STATISTICS,
        reference_statistics,
        "statistics_of",
        lambda found: {name: value * 1.002 for name, value in found.items()},
        {"statistics"},
    ),
    "empirical NTK": (
        STATISTICS,
        reference_statistics,
        "empirical_ntk",
        lambda kernel: 30 * kernel,
        {"statistics"},
    ),
    "gradients of samples": (
        STATISTICS,
        reference_statistics,
        "sample_gradients",
        _larger,
        {"statistics"},
    ),
    "singular values": (
        STATISTICS,
        reference_statistics,
        "singular_values",
        lambda values: values + 0.01 * values.max(),
        {"statistics"},
    ),
    "variances": (
        STATISTICS,
        reference_statistics,
        "feature_variances",
        lambda values: 1.01 * values,
        {"statistics"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_training_is_seen(fault, monkeypatch):
    path, owner, name, change, expected = FAULTS[fault]
    monkeypatch.setattr(owner, name, _scaled(getattr(owner, name), change))
    assert expected <= _over(path)


def test_a_case_says_which_loss_it_has():
    case = GoldenCase.load(SQUARED)
    assert parity.build_step(case)[0].config.loss == "squared"
    case.meta["loss_type"] = "huber"
    wrong = {name.partition("/")[0] for name in parity.report(case)["over_tolerance"]}
    assert {"loss", "mean_loss", "grad_norm"} <= wrong <= OF_THE_LOSS


def test_a_fault_in_the_squared_loss_leaves_the_huber_cases_alone(monkeypatch):
    monkeypatch.setattr(losses, "squared_loss", _scaled(losses.squared_loss, lambda loss: loss / 2))
    assert _over(DQN) == set()
    assert {"loss", "mean_loss", "grad_norm"} <= _over(SQUARED) <= OF_THE_LOSS


def test_a_dense_baseline_is_as_wide_as_its_case_says():
    case = GoldenCase.load(WIDE)
    assert case.arrays["params/params/Dense_0/bias"].size == 4 * case.meta["expert_hidden_units"]
    case.meta["scale_hidden_layer"] = False
    with pytest.raises(CaseError, match="params/Dense_0/"):
        parity.report(case)


def test_a_fault_in_the_optimizer_is_seen(monkeypatch):
    step = FlatAdam.step

    def slower(self, part, spared=None):
        self.set_learning_rate(3e-5)
        step(self, part, spared)

    monkeypatch.setattr(FlatAdam, "step", slower)
    assert _over(DQN) == LATER


def test_a_fault_in_one_statistic_is_seen(monkeypatch):
    """Every one of them alone, but for the two that depend on rounding; a count by as little as one."""
    case = GoldenCase.load(STATISTICS)
    step, _ = parity.build_step(case)
    found = parity.compute(case, step)
    monkeypatch.setattr(parity, "build_step", lambda case: (step, None))
    for name in [n for n in case.arrays if n.startswith("statistics/")]:
        counted = case.arrays[name].dtype.kind == "i"
        wrong = found | {name: found[name] + 1 if counted else found[name] * 1.1 + 0.01}
        monkeypatch.setattr(parity, "compute", lambda case, step, wrong=wrong: wrong)
        assert parity.report(case)["over_tolerance"] == ([] if name in parity.NOT_JUDGED else [name])


def test_the_parameter_that_nothing_reads_counts_in_the_norm():
    case = GoldenCase.load(STATISTICS)
    scale = np.full(1, 1000.0)
    changes = {
        f"params/{SOFT_MOE_SCALE}": scale,
        "statistics/param_norm": case.arrays["statistics/param_norm"] + 1e6 - 1.0,
    }
    assert parity.report(GoldenCase(case.name, case.meta, case.arrays | changes))["over_tolerance"] == []


def test_every_array_is_judged(found, monkeypatch):
    case, ours = found
    monkeypatch.setattr(parity, "compute", lambda case, step: ours)
    names = [name for name in case.arrays if name not in parity.INPUTS and "params/params" not in name]
    assert len(names) == 25
    for name in names:
        for wrong in (1.1, np.nan):
            scale = (
                1.0
                if "/" not in name
                else max(
                    float(array) for key, array in case.arrays.items() if key.startswith(name.split("/")[0])
                )
            )
            changed = case.arrays | {name: np.asarray(case.arrays[name] + (wrong - 1.0) * scale)}
            document = parity.report(GoldenCase(case.name, case.meta, changed))
            assert name in document["over_tolerance"]
            json.loads(json.dumps(document, allow_nan=False))
