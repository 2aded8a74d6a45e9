"""The pictures of a terminal in docs/terminal/after are those of today's console."""

import pytest

from tests.helpers.root import ROOT
from tests.helpers.runs.terminal_pictures import COLUMNS, STORY, followed, told, trained


def test_a_run_in_its_warm_up_says_how_far_it_is() -> None:
    assert told("running", 2_000.0, 0.0)["message"].startswith("warm-up: 2,000 of 2,500 transitions")
    assert {answer["message"].partition(":")[0] for _, answer in STORY[1:3]} == {"warm-up"}


@pytest.mark.parametrize("columns", COLUMNS)
def test_the_console_is_as_in_its_pictures(columns: int) -> None:
    def kept(name: str) -> str:
        return (ROOT / "docs" / "terminal" / "after" / f"{name}-{columns}.txt").read_text()

    def stripped(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"

    assert kept("train").endswith(stripped(trained(columns)))
    assert kept("status") == stripped(followed(columns))
