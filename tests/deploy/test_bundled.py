"""The trained Pong network that comes with the package."""

import json

import numpy as np
import pytest

import apexpert
from deploy.cli.main import main
from deploy.networks.model_file import bundled_models, load_model

LARGEST_BYTES = 10_000_000


def test_it_is_a_small_file_of_a_pong_network_with_a_soft_moe():
    path = bundled_models()["pong"]
    model = load_model(path)
    assert path.stat().st_size < LARGEST_BYTES
    assert (model.config.environment.game, model.config.network.head) == ("pong", "soft_moe")
    assert path.with_suffix(".md").read_text().startswith("# bundled:pong")


def test_it_chooses_actions():
    policy = apexpert.load_policy("bundled:pong")
    assert int(policy(np.zeros((4, 84, 84), np.uint8))) in range(6)


@pytest.mark.faults_long
def test_it_plays_well(tmp_path, capsys):
    """Three games by sticky actions; the model card has 30. A random player is at -20.7."""
    out = ("--output", str(tmp_path), "--json")
    assert main(["evaluate", "bundled:pong", "--episodes", "3", "--seed", "7", *out]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] > 10
