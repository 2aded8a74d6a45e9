"""What the pictures of learning curves say: panels, axes, labels, and what runs are drawn beside."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.reports.curves.single_runs import draw_curves, draw_learning_curve
from tests.helpers.recorded_run import ALL, EXPLORING, GREEDY, record_run

TARGET = Path("not-written.png")


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title()]


def ticks(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]


def test_the_picture_is_written_and_has_lines(tmp_path: Path) -> None:
    run = record_run(tmp_path / "a", [{ALL: -21.0}, {ALL: -15.0}])
    picture = imageio.imread(draw_learning_curve(run))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


def test_each_game_has_a_panel_with_a_scale_of_its_own(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [
        record_run(tmp_path / "p", [{ALL: -21.0}, {ALL: 20.0}], game="pong"),
        record_run(tmp_path / "b", [{ALL: 1.0}, {ALL: 400.0}], game="breakout"),
    ]
    draw_curves(runs, TARGET)
    pong, breakout = panels(figures[0])
    assert (pong.get_title(), breakout.get_title()) == ("pong", "breakout")
    assert pong.get_ylim()[1] < 30 < 400 < breakout.get_ylim()[1]
    assert legend(figures[0])[:2] == ["p: all episodes", "b: all episodes"]


@pytest.mark.parametrize(
    ("step", "label", "tick"),
    [(10**5, "emulator frames (thousands)", "200"), (10**6, "emulator frames (millions)", "2")],
)
def test_the_axis_counts_thousands_below_a_million(
    tmp_path: Path, figures: list[Figure], step: int, label: str, tick: str
) -> None:
    draw_curves([record_run(tmp_path / "a", [{ALL: 1.0}, {ALL: 2.0}], step=step)], TARGET)
    figures[0].draw_without_rendering()
    (panel,) = panels(figures[0])
    assert panel.get_xlabel() == label
    assert tick in ticks(panel)


def test_against_hours_nothing_published_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves([record_run(tmp_path / "a", [{ALL: -21.0}, {ALL: 15.0}])], TARGET, against="hours")
    (panel,) = panels(figures[0])
    assert panel.get_xlabel() == "training (hours)"
    assert list(panel.lines[0].get_xdata()) == [1.0, 2.0]
    assert legend(figures[0]) == ["a: all episodes", "random", "human"]
    draw_curves([record_run(tmp_path / "b", [{ALL: 1.0, "progress/seconds": 90.0}])], TARGET, against="hours")
    assert panels(figures[1])[0].get_xlabel() == "training (minutes)"


def test_episodes_are_faint_dots_and_their_number_is_said(tmp_path: Path, figures: list[Figure]) -> None:
    episodes = [(10**6, -20.0, 0.9), (10**6, 5.0, 0.01), (2 * 10**6, 7.0, 0.01)]
    draw_curves([record_run(tmp_path / "a", [{GREEDY: 2.0}, {GREEDY: 3.0}], episodes=episodes)], TARGET)
    (panel,) = panels(figures[0])
    dots = next(line for line in panel.lines if line.get_linestyle() == "None")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([4.0, 8.0], [5.0, 7.0])
    assert dots.get_alpha() <= 0.3
    assert dots.get_color() == panel.lines[0].get_color()
    assert legend(figures[0])[0] == "a: epsilon up to 0.05, 2 episodes"
    assert "single episodes" in figures[0].legends[0].get_title().get_text()


def test_published_seeds_are_bands_of_the_runs_own_encoder(tmp_path: Path, figures: list[Figure]) -> None:
    records = [{GREEDY: 2.0}, {GREEDY: 3.0}]
    draw_curves([record_run(tmp_path / "a", records)], TARGET)
    (panel,) = panels(figures[0])
    seeds = "mean, lowest and highest of 5 seeds"
    assert legend(figures[0])[1:3] == [f"Dopamine {agent} (CNN): {seeds}" for agent in ("Rainbow", "DQN")]
    assert len(panel.collections) == 2, "a band each"
    band = panel.collections[0].get_datalim(panel.transData)
    mean = panel.lines[[line.get_label() for line in panel.lines].index(legend(figures[0])[1])]
    assert band.y0 < min(mean.get_ydata()) <= max(mean.get_ydata()) < band.y1
    assert max(mean.get_xdata()) == 12.0, "half as far again as the run"
    runs = [record_run(tmp_path / "b", records, network={"encoder": "impala"}), tmp_path / "a"]
    draw_curves(runs, TARGET)
    assert sum(label.startswith("Dopamine") for label in legend(figures[1])) == 4


def test_explorers_alone_are_not_drawn_beside_published_curves(tmp_path: Path, figures: list[Figure]) -> None:
    records = [{ALL: -15.0, EXPLORING: -15.0}, {ALL: -5.0, EXPLORING: -5.0}]
    draw_curves([record_run(tmp_path / "one", records)], TARGET)
    assert legend(figures[0]) == ["one: all episodes, exploring", "random", "human"]


def test_a_score_far_away_is_named_and_squeezes_nothing(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves([record_run(tmp_path / "a", [{GREEDY: -20.5}, {GREEDY: -19.5}])], TARGET, against="hours")
    (panel,) = panels(figures[0])
    assert panel.get_ylim()[1] < 0
    assert [text.get_text() for text in panel.texts] == ["\N{UPWARDS ARROW} human 14.6"]
    assert "human" not in legend(figures[0])


def test_the_legend_covers_no_panel(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves([record_run(tmp_path / "a", [{GREEDY: 1.0}, {GREEDY: 2.0}])], TARGET)
    figure = figures[0]
    figure.draw_without_rendering()
    (panel,) = panels(figure)
    assert figure.legends[0].get_window_extent().y1 <= panel.get_tightbbox().y0 + 1
    assert panel.get_legend() is None
