"""A network as one file plays as the run that it is of; what is no such file is named in one line."""

import json
import shutil
import sys

import imageio.v2 as imageio
import pytest
import torch
from safetensors.torch import load_file, save_file

import apexpert
from deploy.cli.main import main
from deploy.cli.network import play
from deploy.networks import model_file
from deploy.networks.model_file import Model, load_model, save_model
from deploy.run.config import with_values
from learner.checkpoint import CheckpointStore
from tests.helpers.runs.network_runs import run_folder


def exported(tmp_path, capsys):
    """A run's folder and the file of its network."""
    folder = run_folder(tmp_path, num_experts=2)
    file = tmp_path / "small.safetensors"
    assert main(["export", "seen", "--runs-dir", str(tmp_path), "--output", str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    return folder, file


def report(capsys, *words):
    """Read what `evaluate --json` prints."""
    assert main(["evaluate", *map(str, words), "--episodes", "9", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_plays_as_the_run_that_it_is_of(tmp_path, monkeypatch, capsys):
    folder, file = exported(tmp_path, capsys)
    of_run = report(capsys, "seen", "--runs-dir", tmp_path)
    shutil.rmtree(folder.path)
    monkeypatch.chdir(tmp_path)
    of_file = report(capsys, "small.safetensors")
    same = ("returns", "lengths", "update", "env_steps", "seed")
    assert [of_file[key] for key in same] == [of_run[key] for key in same]
    assert (tmp_path / "evaluation-small-seed-1-games-9.json").exists()
    assert report(capsys, file, "--output", tmp_path / "there", "--seed", 2)["seed"] == 2
    assert (tmp_path / "there" / "evaluation-small-seed-2-games-9.json").exists()


def test_a_file_holds_no_address_of_the_run(tmp_path):
    folder = run_folder(tmp_path, num_experts=2)
    urls = ("redis://:secret@somewhere:6379",)
    config = with_values(folder.load_config(), replay__urls=urls, run__ray_address="cluster:6379")
    save_model(Model(config, CheckpointStore(folder.checkpoints).load_newest()), tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    for word in (b"secret", b"somewhere", b"cluster:6379", str(tmp_path).encode()):
        assert word not in content


def test_an_exported_network_is_the_online_one_alone(tmp_path, capsys):
    folder, file = exported(tmp_path, capsys)
    tensors, checkpoint = load_file(file), CheckpointStore(folder.checkpoints).load_newest()
    assert {f"online/{name}" for name in tensors} == set(checkpoint.tensors)
    assert all(torch.equal(tensor, checkpoint.tensors[f"online/{name}"]) for name, tensor in tensors.items())
    assert load_model(file).config.network == folder.load_config().network


def test_files_go_into_a_folder_that_is_named_and_get_the_ending_that_is_missing(
    tmp_path, monkeypatch, capsys
):
    exported(tmp_path, capsys)
    monkeypatch.chdir(tmp_path)
    for command, given, written in (
        ("export", "a/net", "a/net.safetensors"),
        ("export", "b/", "b/seen.safetensors"),
        ("play", "a/game", "a/game.mp4"),
        ("play", "a", "a/update-000000056-seed-1.mp4"),
    ):
        assert main([command, "seen", "--runs-dir", ".", "--output", given]) == 0
        assert capsys.readouterr().out.split()[0] == written
        assert (tmp_path / written).stat().st_size > 100
    assert main(["play", "seen", "--runs-dir", ".", "--output", "new/game.wav"]) == 2
    assert "--output new/game.wav: must end in .mp4" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_play_and_show_take_a_file_too(tmp_path, monkeypatch, capsys):
    _, file = exported(tmp_path, capsys)
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["play", str(file), "--episodes", "3"]) == 0
    assert capsys.readouterr().out == "small-seed-1.mp4\n"
    frames = imageio.mimread("small-seed-1.mp4", memtest=False)
    assert main(["play", str(file), "--output", "one.mp4"]) == 0
    assert len(frames) == 3 * len(imageio.mimread("one.mp4", memtest=False)), "every game is as long in Catch"
    file.rename("lr-1e-4.5.safetensors")
    assert main(["show", "lr-1e-4.5.safetensors", "--frames", "2", "--no-video"]) == 0
    assert (tmp_path / "experts-lr-1e-4.5.png").exists()


def test_a_window_opens_where_there_is_a_display(tmp_path, monkeypatch):
    folder = run_folder(tmp_path, num_experts=2)
    folder.save_config(with_values(folder.load_config(), environment__env=""))
    asked = []
    monkeypatch.setattr("deploy.reports.games.evaluate", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(play, "has_display", lambda: True)
    monkeypatch.setattr("deploy.networks.policy.policy_of", lambda *_: None)
    assert main(["play", "seen", "--runs-dir", str(tmp_path), "--episodes", "2", "--seed", "5"]) == 0
    assert [(o["window"], o["recorder"], o["seed"]) for o in asked] == [(True, None, 5), (True, None, 6)]


def test_without_a_screen_that_answers_a_game_becomes_a_video(tmp_path, monkeypatch, capsys):
    folder = run_folder(tmp_path, num_experts=2)
    limits = {"environment__env": "", "environment__max_frames_per_episode": 40}
    folder.save_config(with_values(folder.load_config(), **limits))
    monkeypatch.setenv("DISPLAY", ":9999")
    monkeypatch.setenv("WAYLAND_DISPLAY", "nowhere")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11,wayland")  # put back afterwards
    monkeypatch.delenv("SDL_VIDEODRIVER")
    assert main(["play", "seen", "--runs-dir", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "no window can be opened (Failed to initialize SDL)" in captured.err
    assert captured.out == f"{folder.videos / 'update-000000056-seed-1.mp4'}\n"


def test_models_that_come_with_the_package_have_names(tmp_path, monkeypatch, capsys):
    _, file = exported(tmp_path, capsys)
    monkeypatch.setattr(model_file, "bundled_models", lambda: {"small": file})
    assert report(capsys, "bundled:small", "--output", tmp_path)["episodes"] == 9
    assert main(["evaluate", "bundled:smal"]) == 2
    assert "did you mean small" in capsys.readouterr().err


def test_the_bundled_pong_network_is_small_whole_and_knows_what_it_plays():
    path = model_file.bundled_models()["pong"]
    assert path.stat().st_size < 10_000_000
    config = load_model(path).config
    assert (config.environment.game, config.network.head) == ("pong", "soft_moe")
    network = apexpert.load_network("bundled:pong")
    values = network(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).q_values
    assert values.shape == (2, 6)
    assert path.with_suffix(".md").exists(), "with its model card"


@pytest.mark.faults_long
def test_the_bundled_pong_network_plays_well(tmp_path, monkeypatch, capsys):
    """Three games, far below what its model card says of thirty."""
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "bundled:pong", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["return_mean"] > 10


WRONG = json.dumps({"config": {"x": 1}, "update": 1} | dict.fromkeys(model_file.KEPT))


def written(tmp_path, **metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: (path / "m.safetensors").write_bytes(b"\0" * 99), "not a safetensors file"),
        (lambda path: (path / "m.safetensors").mkdir(), "Is a directory"),
        (written, "not a model that apexpert export has written"),
        (lambda path: written(path, format="apexpert-model", version="2"), "this version reads up to 1"),
        (
            lambda path: written(path, format="apexpert-model", version="1", document='{"config": {"x": 1}}'),
            "its document has no env_steps",
        ),
        (
            lambda path: written(path, format="apexpert-model", version="1", document=WRONG),
            "unknown field 'x'",
        ),
        (lambda path: written(path, format="apexpert-model", version="1"), "is no JSON object"),
    ],
)
def test_what_is_no_model_is_named_in_one_line(tmp_path, monkeypatch, capsys, make, said):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "m.safetensors"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("apexpert: m.safetensors: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_file_must_end_so_that_it_is_known_as_one(tmp_path, capsys):
    run_folder(tmp_path, num_experts=2)
    assert main(["export", "seen", "--runs-dir", str(tmp_path), "--output", str(tmp_path / "m.bin")]) == 2
    assert "--output" in capsys.readouterr().err
    assert main(["evaluate", "bundled:pong", "--best"]) == 2
    assert "--best" in capsys.readouterr().err
