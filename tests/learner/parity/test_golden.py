"""Every golden case: what training computes is what the paper's own code computes."""

import numpy as np
import pytest

from learner.parity.golden_case import GoldenCase
from learner.parity.parity import INPUTS, report
from tests.helpers.learner.golden import FOLDER

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = sorted(path.stem for path in FOLDER.glob("*.npz"))
ARMS = {"baseline", "perfeat", "perpatch", "persample", "top1", "rainbow", "noisy", "stats", "wide", "mse"}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = GoldenCase.load(FOLDER / f"{name}.npz")
    document = report(case)
    assert document["over_tolerance"] == []
    errors = document["max_abs_error"] | document["max_rel_error"]
    with np.load(FOLDER / f"{name}.npz") as file:
        expected = {n for n in file.files if not n.startswith(("params/", "target_params/"))}
    assert errors.keys() == expected - {"meta", *INPUTS}, "a key for every array of the case"


def test_the_cases_are_here():
    assert len(CASES) >= 9
    assert all(any(arm in name for name in CASES) for arm in ARMS)


def test_noise_of_the_reference():
    """Its evaluation mode leaves the noise in the experts on, drawn from the key 10."""
    document = report(GoldenCase.load(FOLDER / "rainbow_impala_softmoe4_noisy_eval.npz"))
    assert document["expert_noise"] == "PRNGKey(10)"
    assert max(document["max_abs_error"].values()) < 5e-6
