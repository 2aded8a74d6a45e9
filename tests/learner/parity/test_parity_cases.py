"""`python -m learner.parity`: a case that is wrong, or none, is one line; what the command prints."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from learner.parity import parity
from learner.parity.golden_case import CaseError, GoldenCase
from tests.helpers.learner.golden import DQN, FOLDER, STATISTICS

pytestmark = pytest.mark.usefixtures("one_thread")


def _write(path, **changes):
    """A copy of the small case with arrays replaced (None removes one) and, in `meta`, options."""
    with np.load(DQN) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(arrays["meta"].tobytes()) | changes.pop("meta", {})
    arrays = arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


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
