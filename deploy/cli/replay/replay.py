"""`apexpert replay`: inspects, verifies, draws from, moves or deletes a run's replay."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.cli.run.control import RunName
from deploy.cli.run.targets import file_target
from deploy.monitor.terminal import terminal
from deploy.replays.source import Source, opened
from deploy.run.checks import check_limits
from deploy.run.config import ConfigError
from deploy.run.errors import RunBusy
from deploy.run.preflight import named_urls
from deploy.run.status import read_status
from replay.shards.owning import LIFE_SECONDS

ACTIONS = ("verify", "frames", "delete", "export", "import_")
SHEET = "transitions.png"
"""File of --frames in a folder."""


@dataclass(frozen=True)
class Servers:
    """Where the shards are, when the run's own configuration does not say."""

    urls: tuple[str, ...] = ()
    """Redis URLs of the run's shards, in their order, or @FILE; $APEXPERT_REDIS_URLS hides them as well."""


@dataclass(frozen=True)
class ReplayArguments:
    """Look at a run's replay: shards, segments, bytes, ages, masses, weights versions, counters.

    Works on live and finished runs and on Redis servers of your own; only --import and --delete write.
    """

    run: RunName
    """Name of the run under --runs-dir, or path of its folder; with --replay.urls its name in Redis."""
    json: bool = False
    """Print everything as JSON."""
    verify: bool = False
    """Read every segment and check it: checksums, logs against keys, priorities; exit code 1 if wrong."""
    frames: str = ""
    """PNG file, or folder, to draw sampled transitions into: frames, action, n-step return, mass."""
    num_frames: int = 24
    """Number of transitions for --frames."""
    seed: int = 0
    """Seed of the draw of --frames."""
    delete: bool = False
    """Remove all keys of the run from its shards; refused while the run is live."""
    yes: bool = False
    """Do not ask before --delete."""
    export: str = ""
    """New folder to write segments, logs, metrics and the newest checkpoint to."""
    import_: Annotated[str, tyro.conf.arg(name="import")] = ""
    """Exported folder to load into the run's shards, which must be empty; a new name creates a run."""
    replay: Servers = field(default_factory=Servers)
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def replay(argv: Sequence[str]) -> int:
    """Do what is asked with a run's replay; return the exit code."""
    arguments = parse(ReplayArguments, argv, command="replay")
    action, urls = _check(arguments), named_urls(arguments.replay.urls)
    # Not by `opened`, which finds runs that are there: an import may create one.
    if action == "import_":
        from deploy.cli.replay.transfer import import_replay

        return import_replay(arguments.run, arguments.runs_dir, urls, arguments.import_, progress)
    if action == "frames":
        sheet = file_target("--frames", arguments.frames, Path(SHEET), (".png",))
    with opened(arguments.run, arguments.runs_dir, urls) as source:
        if action == "verify":
            return _verify(source, as_json=arguments.json)
        if action == "frames":
            from deploy.cli.replay.frames import draw_frames

            print(draw_frames(source, sheet, num_frames=arguments.num_frames, seed=arguments.seed))
            return 0
        if action == "delete":
            return _delete(source, sure=arguments.yes)
        if action == "export":
            from deploy.cli.replay.transfer import export_replay

            return export_replay(source, Path(arguments.export), progress)
        return _show(source, as_json=arguments.json)


def _check(arguments: ReplayArguments) -> str:
    """Return the one action requested, "" for none; raise ConfigError for a wrong combination."""
    asked = [name for name in ACTIONS if getattr(arguments, name)]
    if len(asked) > 1:
        names = " and ".join(f"--{name.rstrip('_')}" for name in asked)
        raise ConfigError(f"{names}: give one of them at a time")
    if arguments.yes and asked != ["delete"]:
        raise ConfigError("--yes: goes with --delete only")
    if arguments.num_frames < 1:
        raise ConfigError(f"--num-frames {arguments.num_frames}: must be 1 or more")
    check_limits("run.seed", arguments.seed)
    return asked[0] if asked else ""


def _show(source: Source, *, as_json: bool) -> int:
    from deploy.reports.replay_summary import KnownMasses, print_summary, summarise
    from replay.tools.inventory import take_inventory

    inventory = take_inventory(source.shards)
    checkpoint = source.checkpoint()
    masses = None
    if checkpoint is not None:
        steps, age = int(checkpoint.document["env_steps"]), time.time() - checkpoint.written
        name, update = checkpoint.path.name, checkpoint.update
        masses = KnownMasses(name, update, steps, age, checkpoint.arrays("sampler"))
    document = summarise(
        source.run,
        source.shards,
        inventory,
        live=source.live,
        masses=masses,
        counters=_counters(source, None if checkpoint is None else checkpoint.document),
    )
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        print_summary(document, terminal())
    return 0


def _counters(source: Source, document: dict[str, Any] | None) -> dict[str, float]:
    """Return the run's own counts: from its last status, else from its newest checkpoint."""
    metrics = read_status(source.folder)["metrics"] if source.folder is not None else {}
    shown = {name: value for name, value in metrics.items() if name.startswith("replay/")}
    shown |= {name: metrics[name] for name in ("learner/weights_version",) if name in metrics}
    if shown or document is None:
        return shown
    sampler = document["sampler"]
    counted = sampler["counters"] | {f"read_{name}": n for name, n in sampler["reader"]["counters"].items()}
    return {f"replay/{name}": float(value) for name, value in counted.items()}


def _verify(source: Source, *, as_json: bool) -> int:
    from replay.tools.inventory import checkpoint_masses
    from replay.tools.verification import WRONG, verify

    checkpoint = source.checkpoint()
    masses = None
    if checkpoint is not None:
        masses = checkpoint_masses(checkpoint.arrays("sampler"))
    with progress("verifying") as told:
        found = verify(source.shards, run=source.run, masses=masses, progress=told)
    if as_json:
        wrong = {kind: found.wrong[kind] for kind in WRONG}
        print(json.dumps(dataclasses.asdict(found) | {"wrong": wrong}, indent=1))
    else:
        counts = f"{found.segments:,} segments, {found.items:,} items, {found.num_bytes:,} bytes"
        print(f"{source.run}: {counts} read and checked; {found.duplicates:,} copies, {found.evicted:,} left")
        for kind, count in found.wrong.items():
            print(f"  {count:,} {WRONG[kind]}; the first: {found.examples[kind]}")
    if found.wrong:
        raise CommandFailed(f"{source.run}: {sum(found.wrong.values()):,} things are wrong in its replay")
    return 0


def _delete(source: Source, *, sure: bool) -> int:
    if source.locked:
        raise RunBusy(f"--delete: {source.run} is live; end it first: apexpert stop {source.run}")
    if source.live:
        sign = f"its learner gave a sign of life in the last {LIFE_SECONDS // 60} minutes"
        raise RunBusy(f"--delete: {source.run} is live: {sign}; end it, or wait so long if it was killed")
    if source.is_foreign:
        by_name = f"apexpert replay {source.run} --delete --runs-dir NONE --replay.urls ..."
        raise ConfigError(
            f"--delete: the keys of {source.run} belong to another folder than this one, which is a copy:"
            f" delete them from there, or by name alone: {by_name}"
        )
    segments = sum(int(shard.administration.info()["log_length"]) for shard in source.shards)
    where = ", ".join(shard.address for shard in source.shards)
    question = f"Delete all of the replay of {source.run} ({segments:,} segments in {where})?"
    if not sure and not _agreed(question):
        print("nothing was deleted")
        return 1
    keys = sum(shard.delete() for shard in source.shards)
    print(f"{source.run}: {keys:,} keys deleted from {len(source.shards)} shards")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("--delete: there is no terminal to confirm on; --yes deletes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], object]]:
    """Show a bar on stderr, if that is a terminal; yield the function that moves it to (done, total)."""
    console = terminal(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
