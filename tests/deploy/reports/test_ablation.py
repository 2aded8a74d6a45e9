"""Networks that play without their mixture, or without what goes past it."""

import numpy as np
import pytest
import torch

from deploy.cli.main import main
from deploy.networks.policy import policy_of
from deploy.reports.ablation import STATE_GAMES, ablate
from learner.checkpoint import CheckpointStore
from models.config import MOE_HEADS
from tests.helpers.runs.network_runs import run_folder


def policy(tmp_path, **network):
    folder = run_folder(tmp_path, num_experts=2, **network)
    config = folder.load_config()
    return policy_of(config, CheckpointStore(folder.checkpoints).load_newest()), config


def tokens_and_features(policy, observations):
    """Record what enters the mixture's place and what leaves its head, float32."""
    seen = []
    hook = policy.network.head.register_forward_hook(
        lambda _, inputs, output: seen.extend((inputs[0], output))
    )
    with torch.inference_mode():
        policy.network(torch.from_numpy(observations))
    hook.remove()
    tokens, output = seen
    return tokens.float(), output.features.float()


def observations():
    return np.random.default_rng(1).integers(0, 256, (5, 4, 84, 84), np.uint8)


@pytest.mark.parametrize("head", MOE_HEADS)
def test_without_its_mixture_the_features_are_the_same_in_every_state(tmp_path, head):
    whole, config = policy(tmp_path, head=head)
    _, before = tokens_and_features(whole, observations())
    ablate(whole, "mixture", config, seed=3)
    _, after = tokens_and_features(whole, observations())
    assert (before - before[0]).abs().max() > 0
    assert torch.equal(after, after[:1].expand_as(after))


def test_the_mean_is_over_the_states_of_its_games(tmp_path, monkeypatch):
    whole, config = policy(tmp_path)
    seen = []

    def batches_of_two_and_three(policy, *_, **options):
        assert (options["seed"], options["episodes"]) == (3, STATE_GAMES)
        assert options["should_stop"]() == "asked"
        for batch in (observations()[:2], observations()[2:]):
            seen.append(tokens_and_features(policy, batch)[1])

    monkeypatch.setattr("deploy.reports.games.evaluate", batches_of_two_and_three)
    ablate(whole, "mixture", config, 3, lambda: "asked")
    _, after = tokens_and_features(whole, observations()[:1])
    torch.testing.assert_close(after[0], torch.cat(seen).mean(dim=0), atol=1e-2, rtol=2e-2)


def test_without_its_residual_only_the_mixture_is_left(tmp_path):
    whole, config = policy(tmp_path, residual=True)
    tokens, before = tokens_and_features(whole, observations())
    ablate(whole, "residual", config, seed=3)
    _, after = tokens_and_features(whole, observations())
    torch.testing.assert_close(before - tokens.flatten(1), after, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("part", ["mixture", "residual"])
def test_evaluate_reports_what_was_taken_away(tmp_path, capsys, part):
    folder = run_folder(tmp_path, num_experts=2, residual=True)
    words = ["evaluate", "seen", "--runs-dir", str(tmp_path), "--episodes", "3", "--without", part]
    assert main(words) == 0
    assert f"without                  {part}\n" in capsys.readouterr().out
    name = f"evaluation-update-000000056-seed-1-games-3-without-{part}.json"
    assert folder.read_json(name, None)["without"] == part


@pytest.mark.parametrize(
    ("network", "part", "said"),
    [
        ({"head": "dense"}, "mixture", "dense head is no mixture"),
        ({"head": "dense"}, "residual", "dense head is no mixture"),
        ({}, "residual", "nothing goes past its mixture"),
    ],
)
def test_what_a_network_does_not_have_is_one_line(tmp_path, capsys, network, part, said):
    run_folder(tmp_path, num_experts=2, **network)
    assert main(["evaluate", "seen", "--runs-dir", str(tmp_path), "--without", part]) == 2
    assert said in capsys.readouterr().err
