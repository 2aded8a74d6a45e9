"""The commands of a user, each a process of its own: train to the end, resume, scale, status, stop, list."""

import json
import re
from pathlib import Path

import pytest

from deploy.fleet.reporting.actor_metrics import RULES, TOTALS
from deploy.monitor.metrics import read_metrics
from deploy.reports.seeds.episodes import read_episodes
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import metric
from tests.helpers.runs.commands import NAME, SHORT, Terminal, Trained
from tests.helpers.runs.processes import is_there, live_parts

RATIO = 32 / SHORT["learner"]["update_period"]
TOTAL, MIN_SIZE = SHORT["run"]["total_env_steps"], SHORT["replay"]["min_size"]


def test_train_ends_by_itself_and_says_what_it_came_to(trained: Trained) -> None:
    folder, printed = trained.terminal.folder, trained.printed
    assert trained.code == 0, printed
    status = trained.terminal.status()
    assert status["state"] == "finished"
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    steps, updates = checkpoint.document["env_steps"], checkpoint.update
    assert TOTAL <= steps < TOTAL + 8 * 16, "ends at the segment that was open"
    assert f"run {NAME} finished" in printed
    assert re.search(rf"env steps +{steps:,}\n +updates +{updates:,}\n", printed)
    assert f"checkpoint          {checkpoint.path}" in printed
    assert f"learning curve      {folder.path / 'learning_curve.png'}" in printed
    assert (folder.path / "learning_curve.png").stat().st_size > 1_000
    lines = list(read_metrics(folder.metrics_path))
    assert lines[-1]["progress/env_steps"] == steps
    assert lines[-1]["progress/updates"] == updates
    check_actors_metrics(lines)
    episodes = read_episodes(folder.episodes_path)
    assert len(episodes) == lines[-1]["episode/count"] > 50
    assert {(e.leg, 0 <= e.env_steps <= steps) for e in episodes} == {(0, True)}


def check_actors_metrics(lines: list[dict[str, float]]) -> None:
    """Check that all that actors and writers measure is in metrics.jsonl, and counters never go down."""
    # Two are of a ladder, and weights have an age once a second publication has come to an actor.
    reported = set(RULES) - {"actors/epsilon_min", "actors/epsilon_max", "actors/weights_age_updates"}
    assert reported <= lines[-1].keys()
    # In its decay, or still at its start: the whole run may be over before a second publication comes.
    assert 0.5 < lines[-1]["actors/epsilon"] <= 1.0
    assert MIN_SIZE < lines[-1]["writer/items"] <= lines[-1]["actors/env_steps"]
    assert lines[-1]["episode/return_mean_100_random"] == lines[-1]["episode/return_mean_100"]
    for name in TOTALS:
        values = [line[name] for line in lines if name in line]
        assert values == sorted(values), name


def test_samples_per_insert_are_within_one_percent_of_the_configured(trained: Trained) -> None:
    """By the learner's count of updates, not by the counter that the limiter goes by."""
    checkpoint = CheckpointStore(trained.terminal.folder.checkpoints).load_newest()
    assert checkpoint is not None
    paid = checkpoint.document["env_steps"] - MIN_SIZE
    assert paid >= 1_000
    drawn = 32 * checkpoint.update
    assert drawn / paid == pytest.approx(RATIO, rel=0.01)
    assert metric(trained.terminal.status(), "replay/samples_per_insert") == pytest.approx(drawn / paid)
    assert f"samples per insert  {drawn / paid:.3f}\n" in trained.printed


def test_resume_scale_up_and_down_stop_and_list(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    before = terminal.status()
    steps = int(metric(before, "progress/env_steps"))
    with terminal.started("resume", NAME, "--total-env-steps", "1000000") as command:
        command.prints(f"resuming at {steps:,} env steps with {steps:,} transitions in replay")

        def now() -> dict:
            assert command.alive, command.printed()
            return terminal.folder.read_json("status.json", {})

        def reaches(alive: int, slots: set[int]) -> dict:
            """The status that `apexpert status --json` prints once so many actors run."""

            def look() -> bool:
                status = now()
                rows = {row["slot"] for row in status["actors"] if row["state"] == "running"}
                there = len(status["actors"]) == len(rows) == alive and rows == slots
                return there and metric(status, "actors/alive") == alive

            until(look, f"{alive} actors", 90)
            return terminal.status()

        def learns_on(status: dict) -> dict:
            def look() -> bool:
                there = now()
                more = metric(there, "progress/env_steps") > metric(status, "progress/env_steps") + 100
                return more and metric(there, "progress/updates") > goal

            goal = metric(status, "progress/updates") + 10
            until(look, "env steps and updates", 90)
            return terminal.status()

        one = learns_on(reaches(1, {0}))
        assert metric(one, "progress/seconds") > metric(before, "progress/seconds")
        assert [row["incarnation"] for row in one["actors"]] == [1], "an incarnation never comes back"
        assert [leg["env_steps"] for leg in terminal.folder.read_json("legs.json", [])] == [0, steps]
        scaled = terminal.run("scale", NAME, "--actors", "2")
        assert scaled.returncode == 0, scaled.stderr
        assert f"{NAME}: 2 actors asked for" in scaled.stdout
        reaches(2, {0, 1})
        assert terminal.run("scale", NAME, "--actors", "1").returncode == 0
        last = learns_on(reaches(1, {0}))
        assert metric(last, "actors/restarts") == 0
        assert metric(last, "replay/missing") == 0

        # One more embedded server; test_added_shard.py has the rest.
        shards = terminal.folder.load_config().replay.shards + 1
        assert terminal.run("scale", NAME, "--shards", str(shards)).returncode == 0
        until(lambda: f"shard added: {shards} shards" in " ".join(now()["notes"]), "the shard", 60)
        last = learns_on(terminal.status())
        assert metric(last, "replay/lost") + metric(last, "replay/parked_shards") == 0
        assert terminal.folder.load_config().replay.shards == shards

        # A copy of the folder names the same processes and sockets; test_copied_folder.py has the rest.
        parts = live_parts(terminal.folder)
        copied = terminal.copy(tmp_path / "backup").run("replay", NAME, "--json")
        assert copied.returncode == 0, copied.stderr
        assert all(map(is_there, parts)), "nothing of the original was touched"
        learns_on(terminal.status())

        stopped = terminal.run("stop", NAME)
        assert stopped.returncode == 0, stopped.stderr
        assert command.process.wait(patient(30)) == 0, command.printed()
        check_stopped(terminal, stopped.stdout, command.printed())


def check_stopped(terminal: Terminal, said: str, printed: str) -> None:
    """A last checkpoint, the line that goes on with it from both commands, and the run in the list."""
    status = terminal.status()
    assert (status["state"], status["actors"]) == ("stopped", [])
    newest = CheckpointStore(terminal.folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == metric(status, "progress/updates")
    assert f"{NAME}: stopped; checkpoint {newest.path}" in said
    assert f"apexpert resume {NAME}\n" in said
    assert f"apexpert resume {NAME}\n" in printed
    listed = terminal.run("list")
    assert listed.returncode == 0
    row = listed.stdout.splitlines()[1].split()
    assert row[:5] == [NAME, SHORT["environment"]["env"], "stopped", f"{newest.document['env_steps']:,}", "/"]


@pytest.mark.faults_long
def test_a_detached_run_goes_on_alone_to_its_end(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    goal = TOTAL + 300
    with terminal.ending_ray():
        done = terminal.run("resume", NAME, "--total-env-steps", str(goal), "--detach")
        assert done.returncode == 0, done.stderr
        assert f"apexpert stop {NAME}\n" in done.stdout
        left = json.loads((terminal.folder.path / "ray.json").read_text())["local"]["folder"]
        last = until(lambda: (s := terminal.status())["state"] == "finished" and s, "its end", 90, pause=0.2)
        assert metric(last, "progress/env_steps") >= goal
        until(lambda: not Path(left).exists(), "the end of its Ray", 30)


def test_evaluate_plays_full_games_and_films_them(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    done = terminal.run("evaluate", NAME, "--episodes", "3", "--video")
    assert done.returncode == 0, done.stderr
    (report,) = terminal.folder.path.glob("evaluation-update-*.json")
    scores = json.loads(report.read_text())
    assert scores["episodes"] == len(scores["returns"]) == 3
    assert scores["return_mean"] == sum(scores["returns"]) / 3
    assert scores["epsilon"] == 0.001
    (film,) = terminal.folder.videos.glob("*.mp4")
    assert film.stat().st_size > 500
    assert str(film) in done.stdout
