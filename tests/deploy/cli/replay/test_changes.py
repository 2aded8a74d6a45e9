"""`apexpert replay` deletes and moves, also on a user's own servers, and what it refuses; real servers."""

from pathlib import Path

import pytest

from deploy.run.folder import RunFolder
from tests.helpers.replay.samplers import Run, ingest_all
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.replay_command import SHARDS, SIGNATURE, call, look
from tests.helpers.shards.servers import fresh_run, shared_urls


def test_delete_asks_first(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, folder.path, "--delete")
    assert code == 2
    assert "--yes deletes without asking" in err
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert call(capsys, folder.path, "--delete")[0] == 1
    assert "Delete all of the replay of r" in asked[0]
    assert look(capsys, folder.path)["items"] == 150
    code, out, _ = call(capsys, folder.path, "--delete", "--yes")
    assert code == 0
    assert "keys deleted from 2 shards" in out
    code, _, err = call(capsys, folder.path)
    assert code == 2
    assert "nothing is stored under that name" in err


def test_an_export_takes_metrics_episodes_and_last_status_along(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.metrics_path.write_text('{"env_steps": 150}\n')
    folder.episodes_path.write_text('{"return": 1.0}\n')
    folder.write_json("status.json", {"state": "finished", "metrics": {"progress/env_steps": 150.0}})
    assert call(capsys, folder.path, "--export", tmp_path / "out")[0] == 0
    kept = RunFolder(tmp_path / "out")
    assert kept.metrics_path.read_text() == folder.metrics_path.read_text()
    assert kept.episodes_path.read_text() == folder.episodes_path.read_text()
    assert kept.read_json("status.json", {}) == folder.read_json("status.json", {})


def test_it_moves_to_a_new_run_and_to_servers_of_the_users(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = folder.path.parent, tmp_path / "out"
    assert call(capsys, folder.path, "--export", out)[0] == 0
    assert call(capsys, "moved", "--runs-dir", runs, "--import", out)[0] == 0
    before, after = look(capsys, folder.path), look(capsys, "moved", "--runs-dir", runs)
    ages = [document["masses"].pop("age_seconds") for document in (before, after)]
    assert 0 < ages[0] < ages[1], "as old as it was"
    for name in ("items", "segments", "masses", "weights_version", "log"):
        assert before[name] == after[name]
    assert call(capsys, "moved", "--runs-dir", runs, "--verify")[0] == 0
    fleet = RunFolder(runs / "moved").read_json("fleet.json", {})
    assert fleet["next_incarnation"] == {"0": 4, "1": 1, "2": 1}

    name, urls = fresh_run(), shared_urls()[:SHARDS]
    given = ("--runs-dir", runs, "--import", out, "--replay.urls", *urls)
    assert call(capsys, name, *given)[0] == 0
    assert RunFolder(runs / name).load_config().replay.urls == tuple(urls)
    assert look(capsys, name, "--runs-dir", runs)["items"] == 150
    code, _, err = call(capsys, name, *given)
    assert code == 2
    assert "holds data of run" in err
    # Only its name in Redis, as from another machine.
    monkeypatch.setenv("APEXPERT_REDIS_URLS", " ".join(urls))
    elsewhere = look(capsys, name, "--runs-dir", tmp_path / "none")
    assert elsewhere["items"] == 150
    assert elsewhere["masses"] is None
    assert call(capsys, name, "--runs-dir", tmp_path / "none", "--frames", tmp_path / "new/s")[0] == 0
    assert (tmp_path / "new/s.png").stat().st_size > 100
    assert call(capsys, name, "--runs-dir", runs, "--delete", "--yes")[0] == 0


def test_two_runs_on_the_same_servers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    urls = shared_urls()[:SHARDS]
    config = catch_config(tmp_path, replay__min_size=32).replay
    one, other = (Run(urls, SIGNATURE, config) for _ in range(2))
    one.fill(0, 30, actor=0)
    other.fill(1, 40, actor=0)
    for run in (one, other):
        for shard in run.shards:
            shard.check_meta(SIGNATURE)
    given = ("--runs-dir", tmp_path, "--replay.urls", *urls)
    assert [row["items"] for row in look(capsys, one.name, *given)["shards"]] == [30, 0]
    assert [row["items"] for row in look(capsys, other.name, *given)["shards"]] == [0, 40]
    assert call(capsys, one.name, *given, "--delete", "--yes")[0] == 0
    assert look(capsys, other.name, *given)["items"] == 40
    assert call(capsys, other.name, *given, "--verify")[0] == 0
    assert call(capsys, one.name, *given)[0] == 2


def test_a_run_that_is_only_known_by_its_name_is_not_deleted_while_its_owner_works(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing has to move in its shards for that: it may be waiting, or slow."""
    urls = shared_urls()[:SHARDS]
    run = Run(urls, SIGNATURE, catch_config(tmp_path, replay__min_size=32).replay)
    run.fill(0, 30, actor=0)
    for shard in run.shards:
        shard.check_meta(SIGNATURE)
    given = (run.name, "--runs-dir", tmp_path, "--replay.urls", *urls)
    sampler = run.sampler()
    ingest_all(sampler)
    assert look(capsys, *given)["live"]
    assert call(capsys, *given, "--verify")[0] == 0
    code, _, err = call(capsys, *given, "--delete", "--yes")
    assert code == 2
    assert "is live: its learner gave a sign of life in the last 5 minutes" in err
    assert err.count("\n") == 1
    sampler.close()
    assert not look(capsys, *given)["live"]
    assert call(capsys, *given, "--delete", "--yes")[0] == 0


MISTAKES = [
    (["nope"], "no run 'nope'"),
    (["nope", "--delete", "--yes"], "no run 'nope'"),
    (["nope", "--import", "nowhere"], "nowhere is not an exported replay"),
    (["r", "--verify", "--delete"], "--verify and --delete: give one of them"),
    (["r", "--export", "x", "--import", "y"], "--export and --import: give one of them"),
    (["r", "--yes"], "--yes: goes with --delete only"),
    (["r", "--frames", "sheet.jpg"], "--frames sheet.jpg: must end in .png"),
    (["r", "--frames", "something/sheet.png"], "--frames: something/sheet.png: Not a directory"),
    (["r", "--frames", "s.png", "--num-frames", "0"], "--num-frames 0: must be 1 or more"),
    (["r", "--export", "."], "--export .: . is there already"),
    (["r", "--shards", "2"], "--shards: unknown flag"),
    (["fresh"], "fresh has no replay"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_mistakes_are_one_line(
    made: RunFolder,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    runs = made.path.parent
    if not (runs / "fresh").exists():
        RunFolder.create(catch_config(runs, run__name="fresh"))
    code, out, err = call(capsys, *argv, "--runs-dir", runs)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
