"""Text from outside on a terminal: brackets and colons are shown, whatever prints them."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console as RichConsole
from rich.table import Table

import deploy
from deploy.monitor.console import Console
from deploy.monitor.terminal import print_whole, terminal
from tests.helpers.runs.scripted_run import status

OUTSIDE = "[running] [/nope] :key: [red]"


def test_nothing_from_outside_is_markup_on_the_live_console() -> None:
    out = io.StringIO()
    # A console of rich as it comes, which takes brackets for markup.
    console = Console(
        OUTSIDE,
        plain=False,
        out=RichConsole(file=out, width=120, force_terminal=True, no_color=True),
        expects=lambda _: OUTSIDE,
    )
    console.update(status("running", message=OUTSIDE, notes=[f"12:00:00 {OUTSIDE}"]))
    console.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert f"{OUTSIDE} [running]" in text
    assert f"expected            {OUTSIDE}" in text
    assert f"12:00:00 {OUTSIDE}" in text
    assert text.count(OUTSIDE) >= 4


@pytest.mark.parametrize("columns", [40, 80])
def test_the_state_is_shown_however_long_the_name_is(columns: int) -> None:
    name, out = "paper-rainbow-MsPacman-20261128-235959 (ms_pacman)", io.StringIO()
    console = Console(name, plain=False, out=RichConsole(file=out, width=columns, force_terminal=True))
    console.update(status("running"))
    console.close()
    assert "[running]" in out.getvalue()


def test_rows_are_whole_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    table = Table("run", "env steps", box=None)
    table.add_row("[b]" * 20, "1,000,000 / 1,000,000")
    print_whole(table, terminal(file=out, width=30))
    assert out.getvalue().splitlines()[1].rstrip().split(maxsplit=1) == ["[b]" * 20, "1,000,000 / 1,000,000"]


def test_every_console_of_rich_is_made_in_one_place() -> None:
    folder = Path(deploy.__file__).parent
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}
    made = {
        name
        for name, text in texts.items()
        if re.search(r"^\s*(import rich|from rich import)", text, re.MULTILINE)
        or ("from rich.console import" in text and re.search(r"\b(Rich)?Console\(", text))
    }
    assert made == {"monitor/terminal.py"}
