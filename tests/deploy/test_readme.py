"""What README.md, CONTRIBUTING.md and docs/ say to type is understood, and what they name is there.

Nothing is run.
"""

import importlib
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

import apexpert
from deploy.cli.bench import WHAT
from deploy.cli.errors import TRACEBACK, UsageError
from deploy.cli.main import COMMANDS
from deploy.cli.parsing import flags_of, parse
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.config import ConfigError
from deploy.run.presets import LAPTOP, PRESETS
from replay.config import ReplayConfig
from replay.items.counters import Counters
from replay.log.reader import COUNTERS
from replay.owner.metrics import metrics
from tests.helpers.root import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
README_WORDS, COLUMNS = 700, 100
MAKEFILE = (ROOT / "Makefile").read_text()
SPAN = re.compile(r"`([^`\n]+)`")
# `E`, `K`, `N` and the like stand for a number; it is even, 2 or more and fits every flag that has one.
PLACEHOLDER = re.compile(r"[A-Z]{1,2}")
NAME, PATH, LINK = r"[\w.-]+", r"[\w.-]+(?:/[\w.-]+)*", r"\]\(([^)#\s]+)"
FOLLOWER = MagicMock(**{"reader.counters": dict.fromkeys(COUNTERS, 0)})
METRICS = set(metrics(Counters(), FOLLOWER, ReplayConfig(), misses=0)) | set(
    re.findall(r'"(actors/\w+)": ', "".join(path.read_text() for path in (ROOT / "actors").glob("*.py")))
)
BASES = ("--config", "--like")
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
MADE_BY_USE = ("runs/", "RUN/", ".venv/", "site/")


def arguments_of(name: str) -> Any:
    """The dataclass of a subcommand's arguments."""
    return getattr(importlib.import_module(COMMANDS[name].module), f"{name.capitalize()}Arguments")


def what_is_wrong_with(words: list[str]) -> str | None:
    """Why `apexpert WORDS` would not be understood, None when it would; of `train` the values too."""
    name, argv = words[0], words[1:]
    if name not in COMMANDS:
        return f"{name}: unknown command"
    if not argv:
        return None  # prose that names a command
    if name == "submit" and "--" in argv:
        cut = argv.index("--")
        return what_is_wrong_with(["train", *argv[cut + 1 :]]) or what_is_wrong_with(words[: cut + 1])
    if name == "bench":
        if argv[:1] and argv[0] not in WHAT:
            return f"{argv[0]}: unknown benchmark"
        argv = argv[1:]
    try:
        arguments = parsed(name, argv)
        if isinstance(arguments, TrainArguments):
            config_of(arguments)
    except (UsageError, ConfigError) as error:
        return str(error)
    except SystemExit:  # --help ends there
        return None
    return None


def what_is_wrong_with_flags(words: list[str], commands: list[str]) -> str | None:
    """Why none of the commands takes these flags; one that is only named, without its value, is enough."""
    reasons = []
    for name in commands:
        if set(words) <= set(flags_of(arguments_of(name))):
            return None
        try:
            parsed(name, words if name == "train" else [*words, "RUN"])
            return None
        except UsageError as error:
            reasons.append(str(error))
    return reasons[-1]


def parsed(name: str, argv: list[str]) -> Any:
    """The arguments that the subcommand's own parser makes of these words."""
    # As in `main`: every command takes --traceback.
    argv = ["2" if PLACEHOLDER.fullmatch(word) else word for word in argv if word != TRACEBACK]
    kind = arguments_of(name)
    if issubclass(kind, TrainArguments):
        # Files and runs that a page makes up are not there to be read.
        made_up = {place + n for place, word in enumerate(argv) if word in BASES for n in (0, 1)}
        # So are files of servers' URLs on another machine.
        elsewhere = [
            n for n, word in enumerate(argv) if word.startswith("@/") and argv[n - 1] == "--replay.urls"
        ]
        made_up |= {place - n for place in elsewhere for n in (0, 1)}
        argv = [word for place, word in enumerate(argv) if place not in made_up]
        return parse_config(kind, argv, command=name, default=lambda: LAPTOP)
    return parse(kind, argv, command=name)


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def commands_of(text: str) -> list[list[str]]:
    """The words behind `apexpert` of every command line, in blocks and in the text."""
    text = text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s*apexpert ", line)]
    return [
        words_of(line)[1:] for line in [*lines, *SPAN.findall(text)] if words_of(line)[:1] == ["apexpert"]
    ]


def units_of(text: str) -> list[str]:
    """Paragraphs, list items and rows of tables, each with its wrapped lines joined."""
    units = [""]
    for line in text.splitlines():
        if not line.strip() or re.match(r"\s*(- |[|#>]|```|\d+\. )", line):
            units.append("")
        units[-1] += f"{line} "
    return units


def loose_flags_of(text: str) -> list[tuple[list[str], list[str]]]:
    """Flags that stand alone, and the commands that they may be of: those of their unit, else `train`.

    Those of another program are left out: a block of the page shows them with it.
    """
    found = []
    blocks = "".join(re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL))
    others = [line for line in blocks.splitlines() if not line.lstrip().startswith("apexpert ")]
    foreign = set(re.findall(r"--[\w-]+", "\n".join(others)))
    for unit in units_of(text):
        named = [name for name in re.findall(r"`apexpert (\w+)", unit) if name in COMMANDS]
        spans = [words_of(span) for span in SPAN.findall(unit) if span.startswith("--")]
        found += [(words, [*named, "train"]) for words in spans if words[0] not in foreign]
    return found


def make_lines_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("make ")]
    return [words_of(line) for line in [*lines, *SPAN.findall(text)] if words_of(line)[:1] == ["make"]]


def modules_of(text: str) -> list[str]:
    return re.findall(r"python -m ([\w.]+)", text)


def paths_of(text: str) -> list[str]:
    """Files and folders of the project that a page names; those of a run are left out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\w+://\S+", "", re.sub(LINK, "", text))
    folders = [span for span in SPAN.findall(text) if re.fullmatch(rf"{PATH}/", span)]
    inside = [span for span in SPAN.findall(text) if re.fullmatch(f"{PATH}/{NAME}", span)]
    inside = [path for path in inside if (ROOT / path.partition("/")[0]).is_dir()]
    files = re.findall(rf"(?<![\w/.<>-]){PATH}/[\w-]+\.(?:md|py|json|toml|npz|txt)\b", text)
    paths = [path for path in [*folders, *inside, *files] if not path.startswith(MADE_BY_USE)]
    return [path for path in paths if path not in METRICS]


def links_of(text: str) -> list[str]:
    """List a page's links other than to the web, relative to the page's own folder."""
    return [link for link in re.findall(LINK, text) if "://" not in link]


def problems(text: str, folder: Path = ROOT) -> list[str]:
    """Everything that is not so in the text of a page in that folder."""
    found = [
        f"apexpert {shlex.join(words)}: {why}"
        for words in commands_of(text)
        if words and (why := what_is_wrong_with(words))
    ]
    for words, commands in loose_flags_of(text):
        if why := what_is_wrong_with_flags(words, commands):
            found.append(f"{shlex.join(words)}: {why}")
    for _, target, *settings in make_lines_of(text):
        names = [setting.partition("=")[0] for setting in settings]
        unknown = [name for name in names if not re.search(rf"^{name} \??=", MAKEFILE, re.MULTILINE)]
        if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) or unknown:
            found.append(f"make {target} {unknown}: not in the Makefile")
    found += [f"python -m {name}: no such module" for name in modules_of(text) if not is_module(name)]
    found += [f"{path}: is not there" for path in paths_of(text) if not (ROOT / path).exists()]
    found += [f"{link}: is not there" for link in links_of(text) if not (folder / link).exists()]
    found += [f"{name}: no such test" for name in re.findall(r"`(test_\w+\.py)`", text) if name not in TESTS]
    return found


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_a_page_tells_is_so(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in re.findall(r"^printf .*$", page.read_text(), flags=re.MULTILINE):
        command, _, name = line.partition(" > ")  # a file that a later command of the page reads
        Path(name).write_bytes(subprocess.run(words_of(command), stdout=subprocess.PIPE, check=True).stdout)
    assert problems(page.read_text(), page.parent) == []


def test_the_pages_say_enough_for_this_to_mean_something() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = {words[0] for words in commands_of(text) if words}
    assert named == set(COMMANDS), "every command is named, and no other"
    assert len(loose_flags_of(text)) > 60
    targets = set(re.findall(r"^(\w+):", MAKEFILE, flags=re.MULTILINE)) - {"bench", "clean"}
    assert {words[1] for words in make_lines_of(text)} >= targets
    assert len(paths_of(text)) > 100


def test_the_readme_is_short_and_links_to_every_page() -> None:
    text = README.read_text()
    assert len(text.split()) <= README_WORDS
    reached = set(links_of(text)) | {f"docs/{link}" for link in links_of((DOCS / "index.md").read_text())}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md") if page.name != "index.md"} <= reached


def test_one_page_lists_all_there_are_of_a_kind() -> None:
    commands = (DOCS / "commands.md").read_text()
    assert {words[0] for words in commands_of(commands) if words} == set(COMMANDS)
    presets = (DOCS / "presets.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in presets] == []
    decisions = {f"decisions/{page.name}" for page in (DOCS / "decisions").glob("*.md")}
    assert set(links_of((DOCS / "decisions.md").read_text())) == decisions
    api = set(re.findall(r"^::: apexpert\.(\w+)$", (DOCS / "python-api.md").read_text(), flags=re.MULTILINE))
    assert api == set(apexpert.__all__)


def too_long(text: str) -> list[str]:
    """Lines of prose beyond 100 columns: tables, code, addresses and pictures in characters are none."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "    ")) and "](" not in line]
    return [line for line in lines if len(line) > COLUMNS and " " in line.strip()[:COLUMNS]]


def test_prose_is_wrapped() -> None:
    more = [ROOT / "CHANGELOG.md", *DOCS.glob("decisions/*.md"), *ROOT.glob("tests/**/README.md")]
    pages = {*PAGES, *more}
    found = {page.relative_to(ROOT).as_posix(): too_long(page.read_text()) for page in pages}
    assert {page: lines for page, lines in found.items() if lines} == {}
    assert too_long("a " * 51 + "\n```\n" + "b " * 51 + "\n```\n| " + "c " * 51) == ["a " * 51]


MISTAKES = [
    ("```\napexpert scale RUN --actor 2\n```", "--actor: unknown flag; did you mean --actors?"),
    ("| `apexpert evaluate RUN --episode 30 --video` |", "--episode: unknown flag"),
    ("`apexpert trian --game Pong`", "trian: unknown command"),
    ("```\napexpert train --preset lapto   # hm\n```", "--preset lapto: unknown preset"),
    ("    apexpert train --network.num-expert 4", "--network.num-expert: unknown flag"),
    ("`apexpert train --network.head dense --network.normalize`", "it is for soft_moe"),
    ("`apexpert submit --nam NAME -- --preset laptop`", "--nam: unknown flag; did you mean --name?"),
    ("`apexpert submit --name NAME -- --preset lapto`", "--preset lapto: unknown preset"),
    ("`apexpert bench reply`", "reply: unknown benchmark"),
    ("switched by `--learner.no-doubel`.", "--learner.no-doubel: unknown flag"),
    ("`--network.head sof_moe --network.tokens per_pixel`", "--network.tokens: 'per_pixel' is not allowed"),
    ("| `apexpert stop RUN` | at once with `--now` |", "--now: unknown flag"),
    ("```\nmake trian\n```", "make trian []: not in the Makefile"),
    ("`make train GAMES=Pong`", "make train ['GAMES']: not in the Makefile"),
    ("see docs/decisions/0099-nothing.md", "docs/decisions/0099-nothing.md: is not there"),
    ("| `lerner/` | losses |", "lerner/: is not there"),
    ("[the design](docs/desing.md)", "docs/desing.md: is not there"),
    ("| disk full | `test_fulldisk.py` |", "test_fulldisk.py: no such test"),
    ("`python -m learner.partiy CASE.npz`", "python -m learner.partiy: no such module"),
]


@pytest.mark.parametrize(("text", "why"), MISTAKES, ids=[why for _, why in MISTAKES])
def test_a_mistake_in_a_page_is_found(text: str, why: str) -> None:
    assert len(found := problems(text)) == 1, found
    assert why in found[0]
