"""The one way in which text reaches a terminal through rich.

Names, paths and errors come from outside: brackets in them are no markup, `:key:` is no emoji and a number
gets no colour. A table is never narrower than its rows, because a number cut off reads as another number.
"""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

MOST_COLUMNS = 10_000
"""Width in which every table fits."""


def terminal(**options: Any) -> Console:
    """Return a console of rich (`options`: its own) that prints all text as it is."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def plain_rows(*rows: tuple[str, ...]) -> Table:
    """Return rows of text without lines or headers, shown as they are on any console."""
    table = Table.grid(padding=(0, 2))
    for row in rows:
        # rich takes a `str` for markup where its console does.
        table.add_row(*map(Text, row))
    return table


def print_whole(table: Table, console: Console | None = None) -> None:
    """Print a table with whole rows, which a terminal that is too narrow wraps."""
    console = console or terminal()
    needed = console.measure(table, options=console.options.update(width=MOST_COLUMNS)).maximum
    console.width = max(console.width, needed)
    console.print(table)
