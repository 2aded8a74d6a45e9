"""Embedded shards for a benchmark, and an actor that writes to them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actors.actor import Actor
from actors.environments import EnvironmentSpec
from deploy.bench.limits import make_train_step
from deploy.run.config import Config
from models.arrays import Weights
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Signature
from replay.writer import Writer

RUN = "bench"
UNLIMITED = 10**15
"""Allowance so large that writers never wait."""
NEVER_LIMITED = 1e15
"""Error buffer so large that the limiter never stops the learner."""
LATE = 10**12
"""Env steps past the end of any schedule: the network is evaluated at every step, as in most of a run."""


class InitialWeights:
    """A `WeightsSource` that has version 0 and nothing newer."""

    def __init__(self, weights: Weights) -> None:
        self._weights: Weights | None = weights

    def ask(self) -> None:
        """Do nothing: there are no newer weights."""

    def take(self, wait: bool = False) -> Weights | None:
        """Return version 0 at the first call, then None."""
        weights, self._weights = self._weights, None
        return weights

    def renew(self) -> None:
        """Return None: there are no newer weights."""


def signature_of(config: Config, spec: EnvironmentSpec) -> Signature:
    """Return the signature of this configuration's data."""
    return Signature(spec.frame_shape, config.environment.stack, config.replay.n_step, spec.num_actions)


@contextlib.contextmanager
def open_shards(config: Config) -> Iterator[list[Shard]]:
    """Open embedded servers in a temporary folder whose writers never wait for allowance."""
    with tempfile.TemporaryDirectory() as folder:
        servers = EmbeddedServers(
            Path(folder) / "replay",
            shards=config.replay.shards,
            append_fsync=config.replay.append_fsync,
            maxmemory=config.replay.shard_memory_bytes,
        )
        urls = servers.start()
        try:
            with contextlib.ExitStack() as stack:
                shards = [
                    stack.enter_context(contextlib.closing(Shard(url, run=RUN, index=index)))
                    for index, url in enumerate(urls)
                ]
                # A shard without an owner allows nothing, and writers would wait forever.
                for shard in shards:
                    shard.owning.set_allowed(UNLIMITED)
                yield shards
        finally:
            servers.stop()


def make_actor(config: Config, shards: list[Shard], spec: EnvironmentSpec) -> tuple[Actor, Writer]:
    """Return the production actor of slot 0 with the initial weights, to be closed, and its writer."""
    parameters = make_train_step(config, spec).parameters()
    writer = Writer(shards, run=RUN, signature=signature_of(config, spec))
    actor = Actor(
        config.actors,
        config.environment,
        config.exploration,
        config.network,
        config.replay,
        slot=0,
        incarnation=0,
        seed=config.run.seed,
        writer=writer,
        weights=InitialWeights(Weights(0, parameters, LATE)),
    )
    return actor, writer
