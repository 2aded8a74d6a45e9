import io
import json
import re

import pytest
from rich.console import Console as RichConsole

from deploy.cli.run.summary import end_lines
from deploy.monitor.console import Console, duration, line, render, seconds_left
from deploy.reports.seeds.expectation import MEASURED, agent_of, expectation
from deploy.reports.seeds.published import published_curve
from deploy.run.config import from_json, with_values
from deploy.run.presets import DOPAMINE_RAINBOW, LAPTOP, PRESETS
from deploy.run.states import ENDED, EVALUATING
from tests.helpers.root import ROOT

RUNS = ROOT / "docs" / "runs"

METRICS = {
    "progress/env_steps": 250.0,
    "episode/return_mean_100": -20.5,
    "episode/count": 3.0,
    "speed/actor_steps_per_s": 61.25,
    "speed/updates_per_s": 15.0,
    "progress/updates": 62.0,
    "replay/samples_per_insert": 7.98,
    "learner/waiting_share": 0.125,
    "actors/weights_age_updates": 150.0,
    "replay/size": 250.0,
    "replay/fill": 0.25,
    "replay/bytes": 2_500_000.0,
    "actors/alive": 1.0,
}


def status(**changes):
    base = {
        "state": "running",
        "message": "",
        "total_env_steps": 1000,
        "target_actors": 2,
        "metrics": METRICS,
        "notes": [],
    }
    return base | changes


def test_the_line_says_everything_that_the_issue_asks_for():
    text = line(status(), 3600.0)
    for part in (
        "250/1,000 env steps",
        "1:00:00 left",
        "-20.50 (last 100 of 3 episodes)",
        "61.2",
        "62 at 15.0/s",
        "7.980",
        "12 %",
        "weights age 150 updates",
        "250 transitions, 25 % full, 2.5 MB",
        "1 of 2",
    ):
        assert part in text


def test_the_return_of_those_that_act_nearly_greedily_is_shown_where_it_differs():
    greedy = {"episode/return_mean_100_greedy": 3.25}
    assert "-20.50 (last 100 of 3 episodes), 3.25 (last 100 with epsilon up to 0.05)" in line(
        status(metrics=METRICS | greedy), None
    )
    same = {"episode/return_mean_100_greedy": -20.5}
    assert "epsilon up to" not in line(status(metrics=METRICS | same), None)
    assert "nearly greedy       3.25" in "\n".join(end_lines(status(metrics=METRICS | greedy)))
    assert "nearly greedy" not in "\n".join(end_lines(status(metrics=METRICS | same)))


def test_epsilon_and_what_goes_wrong_in_actors_is_shown():
    ladder = {"actors/epsilon": 0.0576, "actors/epsilon_min": 0.00066, "actors/epsilon_max": 0.4}
    assert "epsilon 0.0576 (0.00066 to 0.4)" in line(status(metrics=METRICS | ladder), None)
    assert "epsilon 0.505" in line(status(metrics=METRICS | {"actors/epsilon": 0.505}), None)
    quiet = line(status(metrics=METRICS | {"actors/refused_rewards": 0.0, "writer/retries": 0.0}), None)
    assert "refused" not in quiet
    assert "retries" not in quiet
    troubled = line(status(metrics=METRICS | {"actors/refused_rewards": 3.0, "writer/retries": 2.0}), None)
    assert "refused rewards 3 | writer retries 2" in troubled


def test_nothing_known_yet_is_no_error():
    assert line(status(metrics={}), None).startswith("running: 0/1,000 env steps | - left")


@pytest.mark.parametrize("plain", [True, False])
def test_both_consoles_show_notes_once_and_the_count(plain):
    out = io.StringIO()
    console = Console("pong", plain=plain, out=RichConsole(file=out, width=200, force_terminal=not plain))
    for _ in range(3):
        console.update(status(notes=["12:00:00 actor 0 replaced"]))
    console.close()
    assert out.getvalue().count("actor 0 replaced") == 1
    assert "250" in out.getvalue()


def test_plain_lines_do_not_repeat_within_the_period_but_show_a_new_state():
    out = io.StringIO()
    console = Console("pong", plain=True, out=RichConsole(file=out, width=400))
    for state in ("running", "running", "stopping"):
        console.update(status(state=state))
    assert [text.split(":")[0] for text in out.getvalue().splitlines()] == ["running", "stopping"]


def test_time_left():
    assert seconds_left(status(), 75.0) == 10.0
    assert seconds_left(status(), 0.0) is None
    assert duration(3723.0) == "1:02:03"


def test_the_time_left_after_a_resume_knows_only_the_steps_it_saw(monkeypatch):
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr("deploy.monitor.console.time.monotonic", lambda: now[0])
    console = Console("pong", plain=True, out=RichConsole(file=out, width=400))
    for state, metrics, now[0] in (
        ("starting", {}, 100.0),
        ("running", {"progress/env_steps": 500.0, "progress/updates": 100.0}, 120.0),
        ("running", {"progress/env_steps": 510.0, "progress/updates": 105.0}, 130.0),
        ("running", {"progress/env_steps": 520.0, "progress/updates": 110.0}, 140.0),
    ):
        console.update(status(state=state, metrics=metrics))
    assert out.getvalue().splitlines()[-1].startswith("running: 520/1,000 env steps | 0:08:00 left")


def test_the_time_left_does_not_know_the_fast_warm_up(monkeypatch):
    """500 env steps a second until the first update, then 10: 45 s are left, and not 9."""
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr("deploy.monitor.console.time.monotonic", lambda: now[0])
    console = Console("pong", plain=True, out=RichConsole(file=out, width=400))
    for now[0], env_steps, updates in (
        (0.0, 0.0, 0.0),
        (0.5, 250.0, 0.0),
        (1.0, 500.0, 0.0),
        (2.0, 510.0, 5.0),
        (12.0, 610.0, 50.0),
    ):
        metrics = {"progress/env_steps": env_steps, "progress/updates": updates}
        console.update(status(metrics=metrics, total_env_steps=1_060))
    first, last = (text.split(" | ")[1] for text in out.getvalue().splitlines())
    assert (first, last) == ("- left", "0:00:45 left")


@pytest.mark.parametrize("state", [*sorted(ENDED), "starting", "stopping", EVALUATING])
def test_a_run_that_is_not_under_way_has_no_time_left(state):
    assert seconds_left(status(state=state), 75.0) is None
    assert "left" not in line(status(state=state), None)
    picture = RichConsole(file=io.StringIO(), width=120, record=True)
    picture.print(render("r", status(state=state), None))
    assert "left" not in picture.export_text()


def test_a_run_that_has_ended_shows_nothing_of_the_moment():
    at_work, ended = (line(status(state=state), None) for state in ("running", "stopped"))
    for label in ("actor steps/s", "at 15.0/s", "learner waiting", "weights age", "actors alive"):
        assert label in at_work
        assert label not in ended
    assert "updates 62 | samples per insert 7.980" in ended


def test_what_is_not_known_yet_has_no_row():
    picture = RichConsole(file=io.StringIO(), width=120, record=True)
    picture.print(render("r", status(state="starting", metrics={}, message="waiting for Ray"), None))
    assert [text.split() for text in picture.export_text().splitlines()][2:] == [["waiting", "for", "Ray"]]


def test_a_title_is_no_markup():
    out = io.StringIO()
    RichConsole(file=out, width=200).print(render("r[b]", status(), 1.0))
    assert "r[b] [running]" in out.getvalue()
    assert "250/1,000 env steps" in out.getvalue()


def test_a_run_like_one_that_was_measured_is_told_what_that_came_to():
    """`make train` of Pong; with another head, or another game, published seeds are all there is."""
    expects = expectation(with_values(LAPTOP, environment__game="pong"))
    steps = LAPTOP.run.total_env_steps
    assert re.fullmatch(
        r"a run of this preset \(seed \d+\): -\d+\.\d up to 50,000, -\d+\.\d up to 100,000,"
        rf" \d+\.\d up to {steps:,} env steps",
        expects(0.0),
    )
    assert expects(steps - 1.0).count(" up to ") == 1
    same = {"environment__game": "pong", "run__seed": 9, "replay__shards": 3, "learner__cpus": 1}
    same |= {"run__max_hours": 2.0, "run__until_return": 20.0, "learner__keep_every": 10}
    assert expectation(with_values(LAPTOP, **same))(0.0) == expects(0.0)
    for changes in (
        {"network__head": "dense"},
        {"environment__game": "breakout"},
        {"learner__learning_rate": 1e-4},
        {"replay__n_step": 3},
        {"run__total_env_steps": 300_000},
    ):
        other = expectation(with_values(LAPTOP, **({"environment__game": "pong"} | changes)))
        assert "Dopamine" in other(0.0)


def test_a_run_that_was_measured_had_the_preset_of_today():
    for run in json.loads(MEASURED.read_text()):
        config = from_json(json.loads((RUNS / run["run"] / "config.json").read_text()))
        preset = with_values(PRESETS[run["preset"]], environment__game=run["game"])
        assert expectation(config)(0.0) == expectation(preset)(0.0) != ""
        assert f"(seed {config.run.seed})" in expectation(config)(0.0)


def test_what_published_seeds_came_to_by_now_is_shown_where_it_is_known():
    """Pong's published Rainbow: -20.6 in its first million frames."""
    expects = expectation(
        with_values(DOPAMINE_RAINBOW, environment__game="Pong", run__total_env_steps=1_000_000)
    )
    curve = published_curve("Pong", "rainbow")
    first, second, fourth = (sum(curve.seeds(w)) / 5 for w in (0, 1, 3))
    at_start = (
        f"Dopamine Rainbow (CNN): {first:,.1f} up to 250,000, {second:,.1f} up to 500,000,"
        f" {fourth:,.1f} up to 1,000,000 env steps"
    )
    assert expects(0.0) == expects(249_999.0) == at_start
    assert expects(800_000.0) == f"Dopamine Rainbow (CNN): {fourth:,.1f} up to 1,000,000 env steps"
    assert expectation(with_values(LAPTOP, environment__env="tests.helpers.catch:make"))(0.0) == ""
    assert agent_of(LAPTOP) == ""
    skipping = expectation(with_values(DOPAMINE_RAINBOW, environment__game="Pong", environment__frame_skip=1))
    assert f": {first:,.1f} up to 1,000,000" in skipping(0.0), "compared at equal numbers of frames"

    out = io.StringIO()
    console = Console("r", plain=True, out=RichConsole(file=out, width=200), expects=expects)
    for state in ("starting", "running"):
        console.update(status(state=state))
    assert out.getvalue().count(f"expected: {at_start}\n") == 1
    picture = RichConsole(file=io.StringIO(), width=200, record=True)
    picture.print(render("r", status(), None, expects(0.0)))
    assert at_start in picture.export_text()
    picture.print(render("r", status(), None))
    assert "published" not in picture.export_text()
