"""`--init-from`: a new run begins with another's weights, or is refused with what does not fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.environments import describe_environment
from deploy.fleet import operations
from deploy.networks.first_weights import load_first_weights
from deploy.run.config import ConfigError, with_values
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore, network_tensors
from tests.helpers.learner.fakes import Setup
from tests.helpers.learner.train_steps import NETWORK, make_step
from tests.helpers.runs.network_runs import run_folder


def trained_on_catch(folder: Path) -> RunFolder:
    """A run whose newest checkpoint says that it plays what its configuration says."""
    run = run_folder(folder, num_experts=2)
    newest = CheckpointStore(run.checkpoints).load_newest()
    assert newest is not None
    environment = run.load_config().environment
    spec = describe_environment(environment)
    shape = list(spec.observation_shape(environment.stack))
    document = newest.document | {"observation_shape": shape, "num_actions": spec.num_actions}
    CheckpointStore(run.checkpoints).save(57, newest.tensors, document)
    return run


def test_the_weights_are_copied_into_the_new_run(tmp_path: Path) -> None:
    old = trained_on_catch(tmp_path)
    config = with_values(
        old.load_config(), run__name="new", run__runs_dir=str(tmp_path / "runs"), run__init_from=str(old.path)
    )
    new = operations.create(config)
    newest = CheckpointStore(old.checkpoints).load_newest()
    assert newest is not None
    theirs, ours = network_tensors(newest.tensors, "online"), load_first_weights(new)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_what_does_not_fit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    old = trained_on_catch(tmp_path)
    saved = old.load_config()
    config = with_values(
        saved,
        run__name="new",
        run__runs_dir=str(tmp_path / "runs"),
        run__init_from=str(old.path),
        network__num_experts=4,
        environment__stack=saved.environment.stack + 1,
    )
    with pytest.raises(ConfigError, match=r"^--init-from .*: --network.num-experts is 2, here 4") as caught:
        operations.create(config)
    assert "the observation's shape is" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
    nothing = with_values(config, run__init_from="bundled:pang")
    with pytest.raises(ConfigError, match="bundled:pang: no model of that name; did you mean pong"):
        operations.create(nothing)


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_both_networks_begin_with_them_and_the_optimizer_does_not(tmp_path: Path, sparsity: float) -> None:
    source = make_step(seed=1)
    step = make_step(seed=2, network=dataclasses.replace(NETWORK, sparsity=sparsity))
    setup = Setup(tmp_path, [], total=1)
    setup.learner._train_step = step
    weights = {name: p.detach().clone() for name, p in source.online_network.named_parameters()}
    before = step.state()[0]
    setup.learner.begin_with(weights)
    after = step.state()[0]
    for name, value in weights.items():
        zeros = before.get(f"zeros/{name.removesuffix('_sigma')}")
        expected = value if zeros is None else value.masked_fill(zeros, 0.0)
        assert torch.equal(after[f"online/{name}"], expected)
        assert torch.equal(after[f"target/{name}"], expected)
    others = [name for name in before if not name.startswith(("online/", "target/"))]
    assert [name for name in others if not torch.equal(before[name], after[name])] == []
    assert np.isfinite(step.parameters()).all()
