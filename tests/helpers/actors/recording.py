"""Atari as production actors play it, recorded at their environments, on its way into real shards."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.actor import Actor
from actors.config import EnvironmentConfig
from actors.environments import StepResult, VectorEnvironment, describe_environment
from replay.config import ReplayConfig
from replay.shards.shard import Shard
from replay.types import Batch, Segment, SegmentIdentity, Signature
from replay.writer import Writer
from tests.helpers.actors.acting import WeightsQueue, make_actor, weights
from tests.helpers.deadline import until
from tests.helpers.replay.brute_force import RecordedStep
from tests.helpers.replay.samplers import Run, ingest_all, located
from tests.helpers.shards.servers import fresh_run

NUM_ENVS = 3
PARTS: dict[int, list[list[int]]] = {0: [[110, 270]], 1: [[100], [150]]}
"""Of each actor slot, its incarnations; of each of these, after how many vector steps it drains."""
MOST_DRAWN = 40


class RecordingEnvironment:
    """Hands everything through, and notes copies of each environment's steps."""

    def __init__(self, environment: VectorEnvironment) -> None:
        self._environment = environment
        self.num_envs, self.num_actions = environment.num_envs, environment.num_actions
        self.frame_shape = environment.frame_shape
        self.streams: list[list[RecordedStep]] = [[] for _ in range(environment.num_envs)]
        self.vector_steps = 0

    def reset(self) -> NDArray[np.uint8]:
        frames = self._environment.reset()
        self._frames = frames.copy()
        return frames

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        chosen = actions.copy()
        result = self._environment.step(actions)
        frames = result.frames.copy()
        for env in np.flatnonzero(result.valid):
            step = RecordedStep(
                frame=self._frames[env],
                action=int(chosen[env]),
                reward=float(result.rewards[env]),
                terminated=bool(result.terminated[env]),
                truncated=bool(result.truncated[env]),
                life_lost=bool(result.life_lost[env]),
                next_frame=frames[env],
            )
            self.streams[env].append(step)
        self._frames = frames
        self.vector_steps += 1
        return result

    def close(self) -> None:
        self._environment.close()

    def has_played(self, vector_steps: int) -> bool:
        return self.vector_steps >= vector_steps

    def note_drain(self) -> None:
        for stream in self.streams:
            stream[-1] = replace(stream[-1], drained_after=True)


class NotingWriter:
    """A production writer that notes what was acknowledged, in order."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.segments: list[Segment] = []

    def write(self, segment: Segment, *, wait: bool = True) -> int:
        num_bytes = self._writer.write(segment, wait=wait)
        self.segments.append(segment)
        return num_bytes

    def metrics(self) -> dict[str, float]:
        return self._writer.metrics()


@dataclass(frozen=True)
class Player:
    """One incarnation of an actor, with what it saw and what it wrote."""

    actor: Actor
    environment: RecordingEnvironment
    writer: NotingWriter

    def play(self, drains: Sequence[int]) -> None:
        """Act, draining after so many vector steps each time; the environments are closed at the end."""
        for steps in drains:
            self.actor.run(partial(self.environment.has_played, steps))
            self.environment.note_drain()
        self.actor.close()

    def expect(self, run: Run) -> None:
        """Tell a run what this incarnation's segments must hold."""
        for env, stream in enumerate(self.environment.streams):
            run.expect(stream, [segment for segment in self.writer.segments if segment.env_slot == env])


class RecordedAtari:
    """Two actors of three environments play one game at once, by chance alone, into three uneven shards.

    Actor 0 drains midway and goes on; actor 1 is followed by its next incarnation. Meanwhile an owner
    ingests, allows and draws, as a learner does, with a store too small for a quarter of the frames.
    """

    def __init__(
        self, urls: Sequence[str], environment: EnvironmentConfig, replay: ReplayConfig, **settings: Any
    ) -> None:
        """`settings` are those of ActorConfig."""
        self.urls, self.name, self.config = urls, fresh_run(), replay
        self._environment, self._settings = environment, settings
        frame_shape, num_actions = describe_environment(environment)
        self.signature = Signature(frame_shape, environment.stack, replay.n_step, num_actions)
        self.players: list[Player] = []
        self.drawn: list[tuple[list[tuple[SegmentIdentity, int]], Batch]] = []

    def play(self) -> None:
        """Play all parts, and draw meanwhile; what was drawn is in `drawn`."""
        run = Run(self.urls, self.signature, replace(self.config, prioritized=True), name=self.name)
        sampler = run.sampler(store_bytes=400_000)
        rng = np.random.default_rng(5)
        with ThreadPoolExecutor(len(PARTS)) as pool:
            acting = [pool.submit(self._play_slot, slot, parts) for slot, parts in PARTS.items()]

            def acted() -> bool:
                sampler.ingest()
                if sampler.can_sample() and len(self.drawn) < MOST_DRAWN:
                    batch = sampler.sample()
                    self.drawn.append((located(sampler, batch), batch))
                    sampler.update_priorities(batch.leaf, batch.generation, rng.exponential(size=32) ** 3)
                return all(future.done() for future in acting)

            until(acted, "all parts played", 60.0)
            for future in acting:
                future.result()
        ingest_all(sampler)
        self.players.sort(key=lambda player: player.writer.segments[0].identity)

    def read_as(self, *, stack: int = 4, **changes: Any) -> Run:
        """Compute what a reader with this stack and these changes to the replay's config must find."""
        config = replace(self.config, **changes)
        signature = replace(self.signature, stack=stack, n_step=config.n_step)
        run = Run(self.urls, signature, config, name=self.name)
        for player in self.players:
            player.expect(run)
        return run

    @property
    def streams(self) -> list[list[RecordedStep]]:
        """All environments' streams."""
        return [stream for player in self.players for stream in player.environment.streams]

    def _play_slot(self, slot: int, parts: Sequence[Sequence[int]]) -> None:
        for incarnation, drains in enumerate(parts):
            player = self._player(slot, incarnation)
            self.players.append(player)
            player.play(drains)

    def _player(self, slot: int, incarnation: int) -> Player:
        shards = [Shard(url, run=self.name, index=index) for index, url in enumerate(self.urls)]
        # One actor uses one shard only, so that the load is uneven.
        writer = Writer(shards if slot == 0 else shards[:1], run=self.name, signature=self.signature)
        noting = NotingWriter(writer)
        # Epsilon is 1 until the warm-up ends, which these weights never see.
        source = WeightsQueue(*(weights(i, num_actions=self.signature.num_actions) for i in range(3)))
        actor = make_actor(
            self._environment,
            noting,
            source,
            num_envs=NUM_ENVS,
            replay=self.config,
            slot=slot,
            incarnation=incarnation,
            weights_poll_steps=50,
            **self._settings,
        )
        actor._environment = environment = RecordingEnvironment(actor._environment)
        return Player(actor, environment, noting)
