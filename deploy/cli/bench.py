"""`apexpert bench`: how fast this machine acts, replays, learns, and does all of it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from deploy.cli.errors import CommandFailed, UsageError
from deploy.cli.parsing import as_typed
from deploy.cli.run import summary
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.checks import without_passwords
from deploy.run.config import Config, ConfigError, from_json, to_json
from deploy.run.preflight import with_checked_environment

WHAT = ("actor", "replay", "learner", "head", "diagnostics", "weights", "end-to-end")
LEAST_ITEMS = 1_000
REPLAY_PARTS = ("insert", "sample", "index", "bytes", "tail", "ready")


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    json: bool = False
    """Print the result as JSON."""
    seconds: float = 0.0
    """Length of each measurement; 0 takes 10 (actor, learner), 4 (replay, diagnostics, weights), 2 (head) or
    60 (end-to-end)."""
    repeats: int = 3
    """Runs of replay and end-to-end whose median is reported."""
    parts: tuple[str, ...] = ()
    """Parts of replay to measure: insert, sample, index, bytes, tail, ready; all if none is named."""
    items: int = 1_000_000
    """Transitions in the full replay for the replay measurements."""


@dataclass(frozen=True)
class BenchArguments(TrainArguments):
    """Measure this machine with the production classes: apexpert bench WHAT, where WHAT is one of

      actor        one actor on one core, and its environments and its policy alone
      replay       inserts, draws, memory, tailing and start of the replay, on recorded games
      learner      updates with the real sampler, and the train step and the sampler alone
      head         the head's share of the network's time, with 1, 2, 4, 8 and 16 experts and both encoders
      diagnostics  a diagnosis of every preset's network, and the share of time it takes at its period
      weights      an actor's request for newer weights and a publication, beside a vector step and an update
      end-to-end   a whole run, beside the limit that its parts allow

    Without --preset: Nature, Soft MoE with 4 experts, Rainbow, batch 32 every 4 steps, Breakout, one actor
    with 8 games. Accepts every flag of `apexpert train`.
    """

    bench: Annotated[BenchOptions, tyro.conf.arg(name="")] = field(default_factory=BenchOptions)


def bench(argv: Sequence[str]) -> int:
    """Measure and print; return the exit code."""
    what, rest = _what(argv)
    arguments, config = configure(rest)
    measure = _benchmark(what, arguments.bench)
    result = measure(config)
    # Show what was measured: a benchmark changes the configuration, for example shortens the warm-up.
    measured = without_passwords(from_json(result["config"]))
    if arguments.bench.json:
        print(json.dumps(result | {"config": to_json(measured)}, indent=1))
    else:
        _print(result, measured)
    return 0


def configure(argv: Sequence[str]) -> tuple[BenchArguments, Config]:
    """Return how to measure, and the checked configuration to measure."""
    from deploy.bench.end_to_end import default_config

    try:
        arguments = parse_config(BenchArguments, argv, command="bench", default=default_config)
        options = arguments.bench
        # Not `seconds < 0`, which nan would pass.
        if not options.seconds >= 0 or options.repeats < 1:
            raise ConfigError("--seconds must be 0 or more and --repeats 1 or more")
        if set(options.parts) - set(REPLAY_PARTS):
            raise ConfigError(f"--parts must be of {', '.join(REPLAY_PARTS)}")
        if options.items < LEAST_ITEMS:
            raise ConfigError(f"--items must be {LEAST_ITEMS} or more")
        return arguments, with_checked_environment(config_of(arguments))
    except (ConfigError, UsageError) as error:
        raise type(error)(as_typed(str(error), argv)) from None


def _what(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the benchmark's name and the flags after it."""
    if argv and argv[0] in WHAT:
        return argv[0], argv[1:]
    if {"-h", "--help"} & set(argv):
        # Any benchmark will do: the parser prints the help of all and ends.
        return WHAT[0], argv
    found = "is missing" if not argv or argv[0].startswith("-") else f"{argv[0]!r} is not allowed"
    raise UsageError(f"WHAT {found}; allowed is one of {', '.join(WHAT)} (see apexpert bench --help)")


def _benchmark(what: str, options: BenchOptions) -> Callable[[Config], dict[str, Any]]:
    given: dict[str, Any] = {"seconds": options.seconds} if options.seconds else {}
    # Imported after the flags are checked, so that mistakes are reported at once.
    from deploy.bench import actor, diagnostics, end_to_end, head, learner, weights
    from deploy.bench.errors import BenchmarkError
    from deploy.bench.replay import replay

    def whole(config: Config) -> dict[str, Any]:
        try:
            return end_to_end.run(config, repeats=options.repeats, report=_progress, **given)
        except BenchmarkError as error:
            raise CommandFailed(f"bench end-to-end: {error}") from None

    def replayed(config: Config) -> dict[str, Any]:
        more = given | {"parts": options.parts, "items": options.items, "repeats": options.repeats}
        try:
            return replay.run(config, report=_progress, **more)
        except BenchmarkError as error:
            raise CommandFailed(f"bench replay: {error}") from None

    def headed(config: Config) -> dict[str, Any]:
        try:
            return head.run(config, report=_progress, **given)
        except BenchmarkError as error:
            raise ConfigError(str(error)) from None

    runs: dict[str, Callable[[Config], dict[str, Any]]] = {
        "actor": lambda config: actor.run(config, **given),
        "replay": replayed,
        "learner": lambda config: learner.run(config, **given),
        "head": headed,
        "diagnostics": lambda config: diagnostics.run(config, **given),
        "weights": lambda config: weights.run(config, **given),
        "end-to-end": whole,
    }
    return runs[what]


def _progress(line: str) -> None:
    # Standard output has the result alone, so that a program can read --json.
    print(line, file=sys.stderr, flush=True)


def _print(result: Mapping[str, Any], measured: Config) -> None:
    for line in summary.config_lines(measured):
        print(line)
    for name, value in result.items():
        if not isinstance(value, dict | list):
            print(f"  {name:<28} {f'{value:,.2f}' if isinstance(value, float) else value}")
