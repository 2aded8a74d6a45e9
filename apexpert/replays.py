"""The replay of a run, live or finished, read from Python."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from deploy.replays.source import Source, opened
from replay.config import ReplayConfig
from replay.errors import NotEnoughData
from replay.reader import ReplayReader

__all__ = ["ReplayReader", "open_replay"]


def open_replay(
    run: str, *, runs_dir: str = "runs", urls: tuple[str, ...] = (), seed: int = 0
) -> ReplayReader:
    """Attach to a run's replay and index all that it holds; `with` closes it at the end.

    `run` is a run's name under `runs_dir` or its folder; with `urls`, the Redis servers of the run, also just
    its name there. The servers of a run that nobody works on are started meanwhile, and it cannot be resumed.
    Batches are drawn by the newest checkpoint's priorities, without one by those that actors gave.
    Nothing of the run is changed, and any number of processes may read.

    Raises ConfigError, RunNotFound, ReplayError; NotEnoughData when nothing was stored yet.
    """
    resources = contextlib.ExitStack()
    close: Callable[[], object] = resources.close
    try:
        source = resources.enter_context(opened(run, runs_dir, urls))
        reader = _reader_of(source, seed, resources)
        # `reader.close` closes `resources` as well, by `on_close`.
        close = reader.close
        if (checkpoint := source.checkpoint()) is not None:
            reader.restore(checkpoint.document["sampler"], checkpoint.arrays("sampler"))
        # After the checkpoint's priorities: only what was stored later is left to index.
        reader.refresh()
    except BaseException:
        # Also on Ctrl-C, because servers may have been started for the reader.
        close()
        raise
    return reader


def _reader_of(source: Source, seed: int, resources: contextlib.ExitStack) -> ReplayReader:
    config = source.config()
    stored = next((found for shard in source.shards if (found := shard.signature()) is not None), None)
    if stored is None:
        raise NotEnoughData(f"{source.run}: nothing was stored in its replay yet")
    # Without a folder there is no configuration: read the data as it was written.
    rules = ReplayConfig(n_step=stored.n_step) if config is None else config.replay
    stack = stored.stack if config is None else config.environment.stack
    return ReplayReader(
        rules,
        source.shards,
        run=source.run,
        signature=replace(stored, stack=stack, n_step=rules.n_step),
        seed=seed,
        on_close=resources.close,
    )
