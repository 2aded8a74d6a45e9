"""`python -m learner.parity`: it fails where training's own functions are wrong, and where a case is."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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

FOLDER = Path(__file__).parent.parent / "golden"
DQN, NOISY, STATISTICS = (
    FOLDER / f"{name}.npz"
    for name in ("dqn_nature_baseline", "rainbow_impala_softmoe4_noisy_eval", "stats_rainbow_impala_softmoe4")
)
RAINBOW = FOLDER / "rainbow_impala_softmoe4.npz"
SQUARED, WIDE = (FOLDER / f"{name}_mse.npz" for name in ("dqn_nature_softmoe2", "dqn_impala_baseline_wide4"))
LATER = {"q_values_after_3_adam_steps"}
OF_THE_LOSS = LATER | {"loss", "mean_loss", "grad_norm", "grad_mean"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found():
    """What we compute for the small case, and the case."""
    case = GoldenCase.load(DQN)
    return case, parity.compute(case, parity.build_step(case)[0])


def _write(path, **changes):
    """A copy of the small case with arrays replaced (None removes one) and, in `meta`, options."""
    with np.load(DQN) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(arrays["meta"].tobytes()) | changes.pop("meta", {})
    arrays = arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


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

    def slower(self, part):
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = 3e-5
        step(self, part)

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


WRONG = {
    "kind: 'sac'": {"meta": {"kind": "sac"}},
    "moe_type: 'EXPERTCHOICE'": {"meta": {"moe_type": "EXPERTCHOICE"}},
    "routing_type: 'AVG_POOL'": {"meta": {"routing_type": "AVG_POOL"}},
    "loss_type: 'l1' is not supported, only huber, mse": {"meta": {"loss_type": "l1"}},
    "use_extra_linear_layer: True": {"meta": {"use_extra_linear_layer": True}},
    "expert_type: 'BIG'": {"meta": {"expert_type": "BIG"}},
    "noisy: true": {"meta": {"noisy": True}},
    "double: true": {"meta": {"double": True}},
    "num_experts: '4'": {"meta": {"num_experts": "4"}},
    "num_actions: is missing": {"meta": {"num_actions": None}},
    "patch_size: [2, 3]": {"meta": {"patch_size": [2, 3]}},
    "meta: patches of 20 positions": {
        "meta": {"moe_type": "SOFTMOE", "routing_type": "PER_PATCH", "patch_size": 20}
    },
    "num_experts: 100000000000000000000 is more than": {"meta": {"num_experts": 10**20}},
    "nn_scale: 0.0 is not above 0": {"meta": {"encoder_type": "IMPALA", "nn_scale": 0.0}},
    "nn_scale: 0.01 leaves no channel": {"meta": {"encoder_type": "IMPALA", "nn_scale": 0.01}},
    "nn_scale: inf is not a finite number": {"meta": {"encoder_type": "IMPALA", "nn_scale": float("inf")}},
    "capacity_factor: 0.0 is not above 0": {"meta": {"moe_type": "SOFTMOE", "capacity_factor": 0}},
    "capacity_factor: inf is not": {"meta": {"moe_type": "SOFTMOE", "capacity_factor": float("inf")}},
    "cumulative_gamma: is missing": {"meta": {"cumulative_gamma": None}},
    "cumulative_gamma: 10000000": {"meta": {"cumulative_gamma": 10**400}},
    "patch_size: [3] is not a positive integer": {"meta": {"patch_size": [[3], [3]]}},
    "reward: not an array of numbers": {"reward": np.array(["a"] * 4)},
    "terminal: not an array of numbers": {"terminal": np.array([1j] * 4)},
    "params/params/Dense_0/bias: not an array": {"params/params/Dense_0/bias": np.zeros(3, complex)},
    "params/params/Dense_0/bias: bool": {"params/params/Dense_0/bias": np.zeros(3, bool)},
    "grad_norm/params/Dense_1/kernel: shape (0,)": {"grad_norm/params/Dense_1/kernel": np.zeros(0)},
    "state: is missing": {"state": None},
    "reward: is missing": {"reward": None},
    "reward: shape (3,)": {"reward": np.zeros(3)},
    "action: not integers from 0 to 2": {"action": np.full(4, 3)},
    "next_state: not of the shape": {"next_state": np.zeros((4, 84, 84, 3), np.uint8)},
    "params/params/Dense_0/bias: is missing": {"params/params/Dense_0/bias": None},
    "target_params/params/Dense_0/bias: shape (5,)": {"target_params/params/Dense_0/bias": np.zeros(5)},
    "params/params/Dense_2/bias: the network has no such": {"params/params/Dense_2/bias": np.zeros(5)},
    "q_values: shape (4, 2)": {"q_values": np.zeros((4, 2))},
    "loss: not an array of numbers": {"loss": np.array("a")},
    "experts_hidden: the network that meta describes gives no such": {"experts_hidden": np.zeros((4, 1))},
    "surprise: the network": {"surprise": np.zeros(1)},
    "meta: is missing": {"meta": {}, "drop_meta": True},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_case_is_one_line(message, tmp_path, capsys):
    changes = dict(WRONG[message])
    drop = changes.pop("drop_meta", False)
    path = _write(tmp_path / "case.npz", **changes)
    if drop:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "meta"}
        np.savez(path, **arrays)
    assert parity.main([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{path}: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["srank_0.0", "entk_srank_0.0", "srank_0.01", "feature_norm"])
def test_no_statistic_may_be_nan_judged_or_not(name, tmp_path):
    case = GoldenCase.load(STATISTICS)
    array = case.arrays[f"statistics/{name}"]
    case.arrays[f"statistics/{name}"] = np.full(array.shape, np.nan)
    document = parity.report(case)
    assert f"statistics/{name}" in document["over_tolerance"]
    assert document["max_rel_error"][f"statistics/{name}"] is None


@pytest.mark.parametrize("scalar", [np.full(1, np.nan), np.zeros(7)])
def test_a_parameter_that_nothing_reads_is_looked_at_too(scalar):
    case = GoldenCase.load(FOLDER / "dqn_impala_softmoe4.npz")
    case.arrays["params/params/SoftMoE_0/scalar"] = scalar
    with pytest.raises(CaseError, match=r"SoftMoE_0/scalar: not one finite number"):
        parity.report(case)


def test_members_that_are_no_arrays_are_refused(tmp_path):
    path = tmp_path / "case.npz"
    shutil.copy(DQN, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("README.txt", "hello")
    with pytest.raises(CaseError, match=r"README\.txt: not an array of numbers"):
        GoldenCase.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing", None])
def test_an_unreadable_file(content, tmp_path):
    path = tmp_path / "case.npz"
    path.write_bytes(DQN.read_bytes()[:50_000] if content is None else content)
    with pytest.raises(CaseError, match="not a golden case"):
        GoldenCase.load(path)


def test_no_pickle_is_loaded(tmp_path):
    path = tmp_path / "case.npz"
    np.savez(path, meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CaseError, match="not a golden case"):
        GoldenCase.load(path)


def test_the_command(tmp_path):
    """Status 1 with a case over tolerance, 2 with one that cannot be read; all others are still printed."""
    good, missing = tmp_path / "good.npz", tmp_path / "missing.npz"
    shutil.copy(DQN, good)
    wrong = _write(tmp_path / "wrong.npz", mean_loss=np.array(0.5))

    def run(*paths):
        command = [sys.executable, "-m", "learner.parity", *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    result = run(wrong, good)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert [line["over_tolerance"] for line in lines] == [["mean_loss"], []]
    assert lines[1]["case"] == "dqn_nature_baseline"
    result = run(missing, good)
    assert result.returncode == 2
    assert result.stderr == f"{missing}: no such file\n"
    assert len(result.stdout.splitlines()) == 1
