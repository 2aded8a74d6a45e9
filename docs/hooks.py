"""MkDocs hooks: pages that are made from the code and from files outside docs/ when the site is built."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from deploy.cli.main import COMMANDS, run_command

ROOT = Path(__file__).parents[1]
HELP = "<!-- The help of each command, made when the site is built. -->"
"""Where docs/commands.md takes in the help texts."""
COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page of the site, by the file of the repository's root that it shows."""
WIDTH = 100


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages whose text lies in the root of the repository."""
    for page, source in COPIED.items():
        files.append(File.generated(config, page, content=from_root((ROOT / source).read_text())))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in the help texts, and link to a run's picture where the repository has a link to its folder."""
    if page.file.src_uri == "commands.md":
        return markdown.replace(HELP, all_help())
    return re.sub(r"\]\((runs/[\w.-]+)/?\)", r"](\1/learning_curve.png)", markdown)


def from_root(text: str) -> str:
    """A page of the root as a page of docs/: its links lose the folder."""
    return text.replace("](docs/", "](")


def all_help() -> str:
    """A section for each command with the text that `apexpert COMMAND --help` prints."""
    return "\n".join(f"## {name}\n\n```text\n{help_of(name)}```\n" for name in COMMANDS)


def help_of(name: str) -> str:
    """What `apexpert NAME --help` prints on a terminal of `WIDTH` columns, without its colours.

    Of `train` it is `--help all`.
    """
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            run_command(name, ["--help", "all"] if name == "train" else ["--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)
