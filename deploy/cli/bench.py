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
from deploy.cli.run.idle_flags import print_idle
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.checks import without_passwords
from deploy.run.config import Config, ConfigError, from_json, to_json
from deploy.run.preflight import with_checked_environment

WHAT = ("actor", "replay", "learner", "head", "diagnostics", "weights", "end-to-end")
LEAST_ITEMS = 1_000
REPEATS, ITEMS = 3, 1_000_000
QUICK: Mapping[str, Mapping[str, Any]] = {
    "actor": {"seconds": 2.0},
    "replay": {"seconds": 1.0, "repeats": 1, "items": 100_000},
    "learner": {"seconds": 2.0},
    "head": {"seconds": 0.0, "experts": (1, 4), "least_calls": 2},
    "diagnostics": {"seconds": 0.0},
    "weights": {"seconds": 1.0},
    "end-to-end": {"seconds": 8.0, "repeats": 1, "limit_seconds": 1.0, "paddings": ("same",)},
}
"""Values that `--quick` gives to a benchmark: a minute or less on two cores, and numbers that say less."""
REPLAY_PARTS = ("insert", "sample", "index", "bytes", "tail", "ready")


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    json: bool = False
    """Print the result as JSON."""
    quick: bool = False
    """Take a minute or less: fewer and shorter measurements, which vary more; the flags below still count."""
    seconds: float = 0.0
    """Length of each measurement; 0 takes 10 (actor, learner), 4 (replay, diagnostics, weights), 1 (head) or
    60 (end-to-end)."""
    repeats: int = 0
    """Runs of replay and end-to-end whose median is reported; 0 takes 3, or 1 with --quick."""
    parts: tuple[str, ...] = ()
    """Parts of replay to measure: insert, sample, index, bytes, tail, ready; all if none is named."""
    items: int = 0
    """Transitions in the full replay for the replay measurements; 0 takes 1,000,000, or 100,000 with
    --quick."""


@dataclass(frozen=True)
class BenchArguments(TrainArguments):
    """Measure this machine with the production classes: apexpert bench WHAT, where WHAT is one of

      actor        one actor on one core, and its environments and its policy alone
      replay       inserts, draws, memory, tailing and start of the replay, on recorded games
      learner      updates with the real sampler, and the train step and the sampler alone
      head         the head's share of the network's time, with 1, 2, 4, 8 and 16 experts and both encoders:
                   about a minute on two cores
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
    try:
        result = measure(config)
    except ConfigError as error:
        raise ConfigError(as_typed(str(error), argv)) from None
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
        if not options.seconds >= 0 or options.repeats < 0:
            raise ConfigError("--seconds and --repeats must be 0 or more")
        if set(options.parts) - set(REPLAY_PARTS):
            raise ConfigError(f"--parts must be of {', '.join(REPLAY_PARTS)}")
        if options.items and options.items < LEAST_ITEMS:
            raise ConfigError(f"--items must be {LEAST_ITEMS} or more, or 0")
        config = with_checked_environment(config_of(arguments))
    except (ConfigError, UsageError) as error:
        raise type(error)(as_typed(str(error), argv)) from None
    print_idle(config, argv)
    return arguments, config


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
    # Imported after the flags are checked, so that mistakes are reported at once.
    from deploy.bench import actor, diagnostics, end_to_end, head, learner, weights
    from deploy.bench.errors import BenchmarkError, WrongConfig
    from deploy.bench.replay import replay

    modules: Mapping[str, Any] = {
        "actor": actor,
        "replay": replay,
        "learner": learner,
        "head": head,
        "diagnostics": diagnostics,
        "weights": weights,
        "end-to-end": end_to_end,
    }

    def measure(config: Config) -> dict[str, Any]:
        try:
            result: dict[str, Any] = modules[what].run(config, report=_progress, **how(what, options))
        except WrongConfig as error:
            raise ConfigError(str(error)) from None
        except BenchmarkError as error:
            raise CommandFailed(f"bench {what}: {error}") from None
        return result

    return measure


def how(what: str, options: BenchOptions) -> dict[str, Any]:
    """Return what a benchmark's `run` is given beside the configuration; flags go before `--quick`."""
    flags: dict[str, Any] = {"seconds": options.seconds}
    if what in ("replay", "end-to-end"):
        flags["repeats"] = options.repeats or (0 if options.quick else REPEATS)
    if what == "replay":
        flags |= {"parts": options.parts, "items": options.items or (0 if options.quick else ITEMS)}
    given = {name: value for name, value in flags.items() if value}
    return (dict(QUICK[what]) if options.quick else {}) | given


def _progress(line: str) -> None:
    # Standard output has the result alone, so that a program can read --json.
    print(line, file=sys.stderr, flush=True)


def _print(result: Mapping[str, Any], measured: Config) -> None:
    for line in summary.config_lines(measured):
        print(line)
    for name, value in result.items():
        if not isinstance(value, dict | list):
            print(f"  {name:<28} {f'{value:,.2f}' if isinstance(value, float) else value}")
    if result["benchmark"] == "head":
        from deploy.bench.head import table

        print(f"\n{table(result)}", end="")
