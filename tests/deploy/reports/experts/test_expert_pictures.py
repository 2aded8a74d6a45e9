"""What the pictures of experts say: colours that mean the same everywhere, and words for what is seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from deploy.reports.captions import LINE_HEIGHT, caption
from deploy.reports.experts import film
from deploy.reports.experts.attention import Attention, Maps
from deploy.reports.experts.film import BAR_HEIGHT, GAP, FilmFrames
from deploy.reports.experts.heat import Moment, colours, heat_picture, scale
from deploy.reports.experts.sheet import draw_sheet

NAMES = ("NOOP", "LEFT", "RIGHT")


def maps_of(weights: Any, covered: float = 1.0, cells: str = "tokens") -> Maps:
    """Maps of (E, rows, columns) weights over the screen's part from 0 to `covered`."""
    array = np.asarray(weights, np.float32)
    edges = (np.linspace(0.0, covered, size + 1) for size in array.shape[1:])
    return Maps(array, *edges, "dispatch weight", cells)


def moment_of(weights: Any, *, action: int = 2, values: tuple[float, ...] = (0.1, -0.25, 1.5)) -> Moment:
    maps = maps_of(weights)
    shares = np.full(len(maps.weights), 1 / len(maps.weights), np.float32)
    picture = np.full((84, 60, 3), 100, np.uint8)
    return Moment(1234, -3.0, picture, Attention(shares, maps, np.float32(values)), action)


def one_of(rows: int, row: int, column: int) -> Any:
    weights = np.zeros((1, rows, rows), np.float32)
    weights[0, row, column] = 0.2
    return weights


def red_minus_blue(picture: Any) -> Any:
    return picture[..., 0].astype(int) - picture[..., 2]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 1), (3, 3)])
def test_weight_on_one_token_is_red_there_and_blue_elsewhere(row: int, column: int) -> None:
    picture = np.full((80, 40, 3), 100, np.uint8)
    tint = red_minus_blue(heat_picture(picture, maps_of(one_of(4, row, column)), 0))
    expected = np.zeros((80, 40), bool)
    expected[20 * row : 20 * (row + 1), 10 * column : 10 * (column + 1)] = True
    assert (tint[expected] > 20).all()
    assert (tint[~expected] < -20).all()


def test_an_expert_that_looks_at_everything_alike_is_white_and_called_uniform() -> None:
    """Its weights used to be stretched to the brightest colour."""
    even = maps_of(np.full((1, 4, 4), 1 / 16))
    heat = heat_picture(np.full((80, 80, 3), 100, np.uint8), even, 0)
    assert abs(red_minus_blue(heat)).max() <= 2
    assert even.in_words(0) == "uniform"
    nearly = np.full((1, 4, 4), 1 / 16)
    nearly[0, 0, 0] *= 1.2
    assert maps_of(nearly).in_words(0) == "peak x1.19"
    assert maps_of(one_of(4, 0, 0)).in_words(0) == "peak x16"


def test_the_scale_is_fixed_and_centred_on_uniform() -> None:
    assert scale()([1 / 8, 1.0, 8.0, 100.0, 0.0]).tolist() == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.0])
    middle = np.array(colours()(0.5)[:3])
    assert np.ptp(middle) < 0.02, "neither red nor blue"
    # The same weights have the same colour whatever else is in the map's picture.
    lone = heat_picture(np.full((40, 40, 3), 100, np.uint8), maps_of(one_of(2, 0, 0)), 0)
    both = maps_of(np.concatenate([one_of(2, 0, 0), one_of(2, 0, 0) * 100]))
    for expert in (0, 1):
        assert (heat_picture(np.full((40, 40, 3), 100, np.uint8), both, expert) == lone).all()


def test_lines_show_where_tokens_meet() -> None:
    heat = heat_picture(np.full((80, 80, 3), 100, np.uint8), maps_of(np.ones((1, 4, 4))), 0).sum(axis=2)
    darker = heat < heat[5, 5]
    expected = np.zeros((80, 80), bool)
    expected[[20, 40, 60]] = expected[:, [20, 40, 60]] = True
    np.testing.assert_array_equal(darker, expected)


def test_what_tokens_do_not_cover_and_maps_of_zeros_stay_grey() -> None:
    weights = np.ones((2, 3, 3))
    weights[0, 0, 0], weights[1] = 0.0, 0.0
    maps = maps_of(weights, covered=9 / 11)
    picture = np.full((110, 110, 3), (200, 90, 10), np.uint8)
    heat = heat_picture(picture, maps, 0)
    assert abs(red_minus_blue(heat)[:30, :30]).min() > 20
    assert red_minus_blue(heat)[90:].any() == red_minus_blue(heat)[:, 90:].any() == False  # noqa: E712
    assert not red_minus_blue(heat_picture(picture, maps, 1)).any()
    assert maps.in_words(1) == "no dispatch weight"


def test_the_sheet_names_what_is_seen(figures: list[Figure], tmp_path: Path) -> None:
    weights = np.concatenate([np.ones((1, 4, 4)) / 16, one_of(4, 1, 1)])
    title = "pong: seen, update 5,000"
    draw_sheet([moment_of(weights), moment_of(weights, action=0)], title, NAMES, tmp_path / "s.png")
    (figure,) = figures
    assert figure.get_suptitle() == "pong: seen, update 5,000\ngrid: 4 x 4 tokens"
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == [
        "step 1,234, return -3\naction RIGHT",
        "expert 1: 50% of output\nuniform",
        "expert 2: 50% of output\npeak x16",
    ]
    values = figure.axes[3]
    assert values.get_title(loc="left") == "Q values\n(> is chosen)"
    lines = values.texts[0].get_text().split("\n")
    assert lines == ["  1.500 > RIGHT", "  0.100   NOOP", " -0.250   LEFT"]
    assert figure.axes[7].texts[0].get_text().split("\n")[1] == "  0.100 > NOOP"
    bar = figure.axes[-1]
    assert bar.get_xlabel() == "dispatch weight, in multiples of uniform (1: the same everywhere)"
    assert [text.get_text() for text in bar.get_xticklabels()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert bar.get_xlim() == pytest.approx((1 / 8, 8))


def test_of_many_actions_the_best_are_named_and_the_chosen_one(figures: list[Figure], tmp_path: Path) -> None:
    names = [f"A{number}" for number in range(18)]
    moment = moment_of(np.ones((1, 2, 2)), action=3, values=tuple(np.arange(18.0)))
    draw_sheet([moment], "pong", names, tmp_path / "s.png")
    lines = figures[0].axes[2].texts[0].get_text().split("\n")
    assert [line.split()[-1] for line in lines[:-1]] == [*(f"A{n}" for n in range(17, 9, -1)), "A3"]
    assert lines[-1] == "and 9 lower"


def test_a_film_frame_holds_words_screen_experts_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(
        film, "with_lines", lambda lines, picture: said.append(list(lines)) or _padded(picture)
    )
    frame_of = FilmFrames("pong: seen, update 5,000", NAMES)
    frame = frame_of(moment_of(np.ones((7, 4, 4))))
    panel = (336 + 2 * LINE_HEIGHT + 2 * GAP, 240 + 2 * GAP)
    rows = "two rows of five, words over and the scale below them"
    assert frame.shape == (2 * panel[0] + 2 * LINE_HEIGHT + BAR_HEIGHT, 5 * panel[1], 3), rows
    assert said[0][0] == "screen"
    assert said[1:8] == [[f"expert {n}: 14% of output", "uniform"] for n in range(1, 8)]
    assert said[8] == ["pong: seen, update 5,000", "step 1,234  return -3  action RIGHT  Q 1.500"]
    assert frame[-BAR_HEIGHT:].std() > 20, "the colour bar"


def _padded(picture: Any) -> Any:
    """A picture below two lines of text."""
    return np.concatenate([caption("", picture.shape[1])] * 2 + [picture])
