"""Arms: who belongs to which, and the mean over seeds with its interval."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from deploy.cli.main import main
from deploy.reports.curves import arms
from deploy.reports.curves.arms import draw_arms, group_runs, mean_of
from deploy.reports.curves.run_curves import CurveError
from deploy.run.config import Config, ConfigError, to_json
from tests.helpers.recorded_run import ALL, EXPLORING, GREEDY, record_run

TARGET = Path("not-written.png")


def arm_run(folder: Path, head: str = "soft_moe", *, seed: int = 1, game: str = "pong", value: float = 1.0):
    config = to_json(Config())
    sections = {name: config[name] for name in config if name not in ("environment", "run")}
    sections["network"] = {**config["network"], "head": head}
    records = [{GREEDY: value}, {GREEDY: value + 2.0}]
    return record_run(folder, records, game=game, seed=seed, **sections)


def test_the_mean_and_its_interval_are_over_the_part_that_all_cover() -> None:
    lines = [([0.0, 4.0], [0.0, 4.0]), ([1.0, 2.0], [3.0, 3.0]), ([0.0, 8.0], [5.0, 5.0])]
    found = mean_of(lines)
    assert (found.places[0], found.places[-1]) == (1.0, 2.0)
    assert found.mean[0] == pytest.approx(3.0)
    assert found.mean[-1] == pytest.approx(10 / 3)
    low, high = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem([1.0, 3.0, 5.0]))
    assert found.half_width is not None
    assert found.half_width[0] == pytest.approx((high - low) / 2)


def test_two_seeds_have_a_mean_and_no_interval() -> None:
    found = mean_of([([0.0, 1.0], [0.0, 0.0]), ([0.0, 1.0], [4.0, 4.0])])
    assert found.mean[0] == 2.0
    assert found.half_width is None
    assert not len(mean_of([([0.0, 1.0], [0.0, 0.0]), ([2.0, 3.0], [4.0, 4.0])]).places), "nothing in common"


def test_a_study_is_drawn_from_arms_to_run_folders(tmp_path: Path, figures: list[Figure]) -> None:
    """Games x seeds x arms: one panel a game, an interval where there are three seeds."""
    study = {
        head: [
            arm_run(tmp_path / f"{head}-{game}-{seed}", head, seed=seed, game=game, value=float(seed))
            for game in ("pong", "boxing")
            for seed in range(1, 4 if head == "soft_moe" else 3)
        ]
        for head in ("soft_moe", "dense")
    }
    draw_arms(study, TARGET)
    (figure,) = figures
    pong, boxing = figure.axes
    assert (pong.get_title(), boxing.get_title()) == (
        "pong (epsilon up to 0.05)",
        "boxing (epsilon up to 0.05)",
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["soft_moe, 3 seeds", "dense, 2 seeds"]
    assert "95 % interval" in figure.legends[0].get_title().get_text()
    thick = [line for line in pong.lines if line.get_label() in labels[:2]]
    assert [np.mean(line.get_ydata()) for line in thick] == pytest.approx([3.0, 2.5])
    thin = [line for line in pong.lines if line.get_linewidth() < 1]
    assert len(thin) == 5, "every run"
    assert {line.get_color() for line in thick} == {"C0", "C1"}
    of_arms = [band for band in pong.collections if band.get_alpha() == 0.2]
    assert len(of_arms) == 1, "of three seeds, and none of two"


def test_means_of_unlike_episodes_are_refused(tmp_path: Path) -> None:
    greedy = record_run(tmp_path / "a", [{GREEDY: 1.0}])
    explorer = record_run(tmp_path / "b", [{ALL: 1.0, EXPLORING: 1.0}])
    with pytest.raises(CurveError, match="a, b: have no kind of episodes in common"):
        draw_arms({"x": [greedy], "y": [explorer]}, TARGET)


def test_runs_are_grouped_by_a_setting_or_by_all_that_differ(tmp_path: Path) -> None:
    runs = [
        arm_run(tmp_path / "s1", seed=1),
        arm_run(tmp_path / "s2", seed=2, game="boxing"),
        arm_run(tmp_path / "d1", "dense"),
    ]
    expected = {"head soft_moe": runs[:2], "head dense": runs[2:]}
    assert group_runs(runs, "arm") == expected
    assert group_runs(runs, "network.head") == group_runs(runs, "--network.head") == expected
    assert list(group_runs(runs, "network.num-experts")) == ["num experts 4"]
    with pytest.raises(ConfigError, match=r"--group network\.haed: no setting of that name.*network\.head"):
        group_runs(runs, "network.haed")
    with pytest.raises(ConfigError, match="differ in no setting but seed and game"):
        group_runs(runs[:2], "arm")


def test_arms_are_listed_or_grouped_on_the_command_line(tmp_path: Path, capsys, monkeypatch) -> None:
    runs = {
        name: arm_run(tmp_path / name, "dense" if name[0] == "d" else "soft_moe") for name in ("s", "t", "d")
    }
    asked = []
    monkeypatch.setattr(arms, "draw_arms", lambda *given, **options: asked.append((given[0], options)))
    where = ["--runs-dir", str(tmp_path)]
    assert main(["plot", "soft=s,t", "dense=d", "--against", "hours", *where]) == 0
    assert asked.pop() == ({"soft": [runs["s"], runs["t"]], "dense": [runs["d"]]}, {"against": "hours"})
    assert main(["plot", "s", "t", "d", "--group", "network.head", *where]) == 0
    expected = {"head soft_moe": [runs["s"], runs["t"]], "head dense": [runs["d"]]}
    assert asked.pop() == (expected, {"against": "frames"})
    for words, why in (
        (["soft=s", "d"], "give all runs as ARM=RUN,RUN or none"),
        (["soft=s", "--group", "arm"], "--group arm: the runs are given with their arms"),
        (["s", "--group", "arm", "--diagnostics"], "--diagnostics: draws single runs"),
        (["s", "--against", "hours", "--diagnostics"], "--against hours: --diagnostics are drawn against"),
        (["s", "--group", "arm"], "--group arm: the runs differ in no setting"),
    ):
        assert main(["plot", *words, *where]) == 2
        assert why in capsys.readouterr().err
    assert not asked


def test_the_labels_say_where_games_have_more_seeds(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [arm_run(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    runs.append(arm_run(tmp_path / "other", seed=1, game="boxing"))
    draw_arms({"soft": runs}, TARGET)
    assert figures[0].legends[0].get_texts()[0].get_text() == "soft, 1 to 2 seeds"
