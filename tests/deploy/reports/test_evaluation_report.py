import dataclasses
import json
import re

import imageio.v2 as imageio
import pytest
import torch

from actors.config import EnvironmentConfig
from deploy.cli.main import main
from deploy.cli.network.look import report_lines
from deploy.networks.policy import network_of
from deploy.reports.evaluation import evaluate_checkpoint, frames_per_second
from deploy.run.config import Config, with_values
from deploy.run.presets import LAPTOP
from learner.checkpoint import CheckpointStore, with_prefix
from models.config import NetworkConfig
from models.q_network import build_network
from tests.helpers.runs.network_runs import run_folder

NETWORK = NetworkConfig(
    encoder="nature", padding="valid", num_experts=2, expert_hidden_units=8, num_atoms=11, noisy=True
)


def checkpoint_of(folder, num_actions, config=NETWORK):
    network = build_network(config, num_actions, seed=1)
    document = {
        "update": 56,
        "env_steps": 1234,
        "weights_version": 7,
        "network": dataclasses.asdict(config),
        "observation_shape": [4, 84, 84],
        "num_actions": num_actions,
    }
    store = CheckpointStore(folder)
    return store.load(store.save(56, with_prefix(network.state_dict(), "online"), document))


def older(checkpoint, distributional):
    """The same checkpoint as an earlier version wrote it."""
    network = dict(checkpoint.document["network"])
    del network["values"], network["num_quantiles"]
    document = checkpoint.document | {"network": network | {"distributional": distributional}}
    return dataclasses.replace(checkpoint, document=document)


def config_of(**environment):
    return with_values(Config(network=NETWORK), **{f"environment__{k}": v for k, v in environment.items()})


def test_report_of_catch(tmp_path):
    config = config_of(env="tests.helpers.catch:make")
    report = evaluate_checkpoint(config, checkpoint_of(tmp_path, 3), episodes=9, seed=3).to_json()
    json.dumps(report, allow_nan=False)
    assert (report["update"], report["env_steps"], report["episodes"]) == (56, 1234, 9)
    assert len(report["returns"]) == 9
    assert set(report["returns"]) <= {-1.0, 1.0}
    assert report["return_mean"] == pytest.approx(sum(report["returns"]) / 9)
    low, high = report["return_mean_interval"]
    assert low <= report["return_mean"] <= high
    assert report["human_normalised"] is None


def test_a_report_is_printed_for_people(tmp_path, capsys):
    """Three decimals, no None, and no interval that equal games would make a point."""
    run_folder(tmp_path)
    words = ["evaluate", "seen", "--runs-dir", str(tmp_path), "--episodes"]
    assert main([*words, "1", "--seed", "7"]) == 0
    alike = capsys.readouterr().out
    assert re.search(r"return_mean +-?1\.000 \(no interval: too many games ended alike\)", alike)
    assert re.search(r"seed +7\n", alike)
    assert "None" not in alike
    report = {"return_mean": -1 / 3, "return_mean_interval": [-7 / 9, 1 / 9], "human_normalised": None,
              "human_normalised_interval": None, "update": 1234567, "returns": [1.0]}  # fmt: skip
    assert [line.split(maxsplit=1) for line in report_lines(report)] == [
        ["return_mean", "-0.333 (95 %: -0.778 to 0.111)"],
        ["update", "1,234,567"],
    ]


def test_two_seeds_are_two_reports(tmp_path, capsys):
    folder = run_folder(tmp_path)
    for seed in ("1", "2"):
        assert main(["evaluate", "seen", "--runs-dir", str(tmp_path), "--episodes", "1", "--seed", seed]) == 0
    found = {path.name for path in folder.path.glob("evaluation-*.json")}
    assert found == {f"evaluation-update-000000056-seed-{seed}-games-1.json" for seed in (1, 2)}
    assert {folder.read_json(name, {})["seed"] for name in found} == {1, 2}


def test_fewer_games_leave_the_report_of_the_runs_own_number(tmp_path, capsys):
    folder = run_folder(tmp_path)
    for episodes in ("0", "2", "30"):
        assert main(["evaluate", "seen", "--runs-dir", str(tmp_path), "--episodes", episodes]) == 0
    stem = "evaluation-update-000000056-seed-1"
    found = {path.name: folder.read_json(path.name, {})["episodes"] for path in folder.path.glob("eval*")}
    assert found == {f"{stem}.json": 30, f"{stem}-games-2.json": 2}


def test_games_are_played_as_in_training(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("deploy.reports.games.evaluate", lambda *_, **options: asked.update(options))
    config = with_values(config_of(env="tests.helpers.catch:make"), replay__life_loss_terminates=True)
    with pytest.raises(TypeError):  # it was given no games
        evaluate_checkpoint(config, checkpoint_of(tmp_path, 3), episodes=9, seed=3)
    assert asked["life_loss_terminates"] is True
    assert (asked["epsilon"], asked["episodes"], asked["seed"]) == (config.evaluation.epsilon, 9, 3)


def test_the_same_seed_plays_the_same_games(tmp_path):
    config, checkpoint = config_of(env="tests.helpers.catch:make"), checkpoint_of(tmp_path, 3)
    first, second, other = (
        evaluate_checkpoint(config, checkpoint, episodes=16, seed=seed).to_json()["returns"]
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("values", ["scalar", "c51"])
def test_a_checkpoint_of_before_there_were_values_plays_the_same(tmp_path, values):
    network = dataclasses.replace(NETWORK, values=values)
    checkpoint = checkpoint_of(tmp_path, 3, network)
    old = older(checkpoint, values == "c51")
    assert network_of(old).config == network
    ours, theirs = (network_of(each).state_dict() for each in (checkpoint, old))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_quantiles_play_a_game(tmp_path):
    network = dataclasses.replace(NETWORK, values="quantile", num_quantiles=9)
    config = with_values(config_of(env="tests.helpers.catch:make"), network__values="quantile")
    report = evaluate_checkpoint(config, checkpoint_of(tmp_path, 3, network), episodes=4, seed=3).to_json()
    assert set(report["returns"]) <= {-1.0, 1.0}


def test_video_of_pong_in_colour(tmp_path):
    assert EnvironmentConfig().game == "pong"
    config = config_of(max_frames_per_episode=400)
    video = tmp_path / "videos" / "game.mp4"
    report = evaluate_checkpoint(config, checkpoint_of(tmp_path, 6), episodes=1, seed=3, video=video)
    frames = imageio.mimread(video, memtest=False)
    assert len(frames) == report.episodes[0].length + 1 == 101
    picture = frames[-1]
    assert (picture[..., 0].astype(int) != picture[..., 2]).any(), "a game of Atari is shown in colour"
    assert report.to_json()["human_normalised"] is not None


def test_a_video_that_the_disk_has_no_room_for_costs_no_report(tmp_path, capsys):
    folder = run_folder(tmp_path)
    video = folder.videos / "update-000000056-seed-1.mp4"
    name = "evaluation-update-000000056-seed-1-games-3.json"
    video.symlink_to("/dev/full")
    words = ["evaluate", "seen", "--runs-dir", str(tmp_path), "--episodes", "3"]
    assert main([*words, "--video"]) == 1
    captured = capsys.readouterr()
    assert "return_mean " in captured.out
    assert f"  report  {folder.path / name}" in captured.out
    assert folder.read_json(name, None)["episodes"] == 3
    assert captured.err.splitlines()[-1].startswith(f"apexpert: {video}: ffmpeg could not write it")
    (folder.path / name).unlink()
    (folder.path / name).mkdir()
    assert main(words) == 1
    assert "the report cannot be written: " in capsys.readouterr().err.splitlines()[-1]


def test_a_video_has_the_speed_of_its_game():
    assert frames_per_second(LAPTOP) == 15.0
    assert frames_per_second(with_values(LAPTOP, environment__frame_skip=2)) == 30.0
    other = with_values(LAPTOP, environment__env="minatar:breakout", environment__frame_skip=2)
    assert frames_per_second(other) == 15.0, "frame skip is for Atari alone"
