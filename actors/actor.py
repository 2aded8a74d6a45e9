"""The actor: steps several environments under one policy and writes their transitions to the replay."""

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.config import ActorConfig, EnvironmentConfig, ExplorationConfig
from actors.environments import StepResult, environment_seeds, make_environment
from actors.episodes import Episode, EpisodeTracker
from actors.exploration import Epsilons
from actors.policy import Actions, FrameStacks, Policy
from actors.telemetry import Telemetry
from actors.weights import WeightsAge, WeightsSource
from models.arrays import Weights
from models.config import NetworkConfig
from replay.config import ReplayConfig
from replay.errors import WriterStopped
from replay.segments.builder import SegmentBuilder
from replay.types import Segment, Signature

logger = logging.getLogger(__name__)


class SegmentWriter(Protocol):
    """The part of `replay.writer.Writer` that an actor uses."""

    def write(self, segment: Segment, *, wait: bool = True) -> int:
        """Commit a segment; raise WriterStopped when told to stop while waiting for allowance."""

    def metrics(self) -> dict[str, float]:
        """Return the writer's counters under the run's metric names; may be called from any thread.

        `writer/waited_s` has risen after a `write` that waited.
        """


class Actor:
    """Steps its environments as one batch and writes every step to the replay in segments.

    One call of the policy serves all environments. The step after an episode's end only resets that
    environment: it yields no transition, but by then the policy has evaluated the last observation, whose
    value bootstraps a window cut by a time limit. An actor killed at any time loses only its open segments.
    """

    def __init__(
        self,
        config: ActorConfig,
        environment: EnvironmentConfig,
        exploration: ExplorationConfig,
        network: NetworkConfig,
        replay: ReplayConfig,
        *,
        slot: int,
        incarnation: int,
        seed: int,
        writer: SegmentWriter,
        weights: WeightsSource,
        lockstep: bool = False,
        start_env_steps: int = 0,
    ) -> None:
        """Create the environments, the policy and one segment builder per environment.

        With `lockstep`, the actor waits after each segment for weights that take it into account.
        `start_env_steps` is the number of items in the replay before this incarnation. Raises
        EnvironmentSetupError.
        """
        num_envs = config.envs_per_actor
        self._config, self._writer, self._weights_source = config, writer, weights
        self._lockstep, self._needed_env_steps = lockstep, start_env_steps
        seeds = environment_seeds(seed, slot, incarnation, num_envs)
        self._environment = make_environment(environment, num_envs, seeds)
        frame_shape, num_actions = self._environment.frame_shape, self._environment.num_actions
        signature = Signature(frame_shape, environment.stack, replay.n_step, num_actions)
        self._policy = Policy(
            network,
            observation_shape=signature.observation_shape,
            num_actions=num_actions,
            precision=config.precision,
            seed=_policy_seed(seed, slot, incarnation),
        )
        self._epsilons = Epsilons(exploration, slot=slot, num_envs=num_envs, warm_up_steps=replay.min_size)
        self._stacks = FrameStacks(num_envs, environment.stack, frame_shape)
        self._builders = _make_builders(config, replay, signature, slot=slot, incarnation=incarnation)
        self._life_loss_terminates = replay.life_loss_terminates
        self._tracker = EpisodeTracker(num_envs)
        self._unwritten: deque[Segment] = deque()
        self._weights: Weights | None = None
        self._weights_age = WeightsAge()
        self._started = False
        self._vector_steps = self._refused_rewards = 0
        self._asked_at = -config.weights_poll_steps  # Vector step of the last question for weights.
        self._has_waited = False  # A write has, since the last vector step; the learner continued.
        self._should_stop: Callable[[], bool] = lambda: False
        self._telemetry = Telemetry()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Act until told to stop, then write the open segments; errors of writer and weights propagate."""
        self._should_stop = should_stop
        try:
            while not should_stop():
                self.step()
        except WriterStopped:
            pass  # Told to stop while waiting for allowance: `drain` writes the segment in hand too.
        self.drain()

    def step(self) -> None:
        """Step all environments once: act, collect, write finished segments.

        Raises WriterStopped when told to stop while writing; the segment is kept for `drain`.
        """
        if not self._refresh_weights() or self._weights is None:
            return  # Told to stop before the weights arrived.
        if not self._started:
            self._begin()
        # The schedule counts the fleet's env steps, whose newest number comes with the weights.
        epsilon = self._epsilons.at(self._weights.env_steps)
        actions = self._policy.act(self._stacks.observations, epsilon, values=self._config.actor_priorities)
        self._weights_age.acted()
        result = self._environment.step(actions.action)
        refused = result.valid & ~np.isfinite(result.rewards)
        result = self._without(refused, result)
        # A lost life that ends the episode in the replay also empties the stack (decision 0025).
        goes_on = result.valid & ~(result.life_lost & self._life_loss_terminates)
        self._stacks.push(result.frames, goes_on)
        self._collect(actions, result)
        self._telemetry.count(int(result.valid.sum()), self._tracker.update(result, epsilon, refused))
        self._vector_steps += 1
        # Last, because WriterStopped must not keep this step from being counted.
        self._write_finished(wait=True)

    def drain(self) -> None:
        """Write all open segments without waiting for allowance; acting may continue afterwards."""
        for builder in self._builders:
            self._unwritten.extend(builder.drain())
        self._write_finished(wait=False)

    def take_episodes(self) -> list[Episode]:
        """Return the episodes finished since the last call; may be called from any thread."""
        return self._telemetry.take_episodes()

    def metrics(self) -> dict[str, float]:
        """Return rates over the last seconds and totals of this incarnation; may be called from any thread.

        `deploy.fleet.reporting.actor_metrics` has a rule for each name that combines the actors' values.
        """
        # Read once: the acting thread may replace the weights in between.
        weights = self._weights
        return {
            **self._telemetry.rates(),
            **self._writer.metrics(),
            **self._weights_age.metrics(),
            **self._epsilons.metrics(0 if weights is None else weights.env_steps),
            "actors/env_steps": float(self._telemetry.env_steps),
            "actors/refused_rewards": float(self._refused_rewards),
            "actors/weights_version": float(-1 if weights is None else weights.version),
            "actors/weights_update": float(-1 if weights is None else weights.updates),
        }

    def close(self) -> None:
        """Free the environments."""
        self._environment.close()

    def _begin(self) -> None:
        frames = self._environment.reset()
        self._stacks.reset(frames)
        for builder, frame in zip(self._builders, frames, strict=True):
            builder.reset(frame)
        self._started = True

    def _without(self, refused: NDArray[np.bool_], result: StepResult) -> StepResult:
        """Mark the refused steps (E,), whose reward is not finite, as no transition.

        The episode's record in the replay ends before them.
        """
        if not refused.any():
            return result
        if self._refused_rewards == 0:
            logger.warning("a reward was not a finite number: such steps are left out and counted")
        self._refused_rewards += int(refused.sum())
        return replace(
            result,
            rewards=np.where(refused, 0, result.rewards).astype(np.float32),
            terminated=result.terminated & ~refused,
            truncated=result.truncated & ~refused,
            valid=result.valid & ~refused,
        )

    def _collect(self, actions: Actions, result: StepResult) -> None:
        """Pass each environment's step to its builder; a reset begins the next episode of that slot."""
        version, none = self._policy.weights_version, [None] * len(self._builders)
        q_taken = none if actions.q_taken is None else actions.q_taken.tolist()
        q_max = none if actions.q_max is None else actions.q_max.tolist()
        # Lists: NumPy takes a tenth of a microsecond for each number, and there are six a step.
        for builder, valid, frame, action, reward, terminated, truncated, life_lost, q, q_newest in zip(
            self._builders,
            result.valid.tolist(),
            result.frames,
            actions.action.tolist(),
            result.rewards.tolist(),
            result.terminated.tolist(),
            result.truncated.tolist(),
            result.life_lost.tolist(),
            q_taken,
            q_max,
            strict=True,
        ):
            if not valid:
                builder.reset(frame, q_newest)
                self._unwritten += builder.drain()  # The segment waited for the last observation's value.
                continue
            self._unwritten += builder.add(
                action, reward, frame, terminated, truncated, life_lost, version, q_taken=q, q_max=q_newest
            )
            # The replay begins a new episode with the next life, while the game itself continues.
            if self._life_loss_terminates and life_lost:
                builder.reset(frame)

    def _write_finished(self, *, wait: bool) -> None:
        if not self._unwritten:
            return
        waited = self._waited_s()
        while self._unwritten:
            segment = self._unwritten[0]
            with self._telemetry.waiting():
                self._writer.write(segment, wait=wait)
            # Removed only after the commit: WriterStopped leaves the segment for `drain`.
            self._unwritten.popleft()
            self._needed_env_steps += segment.num_items
        self._has_waited |= self._waited_s() > waited

    def _waited_s(self) -> float:
        return self._writer.metrics().get("writer/waited_s", 0.0)

    def _refresh_weights(self) -> bool:
        """Look for newer weights; wait for the first, and in lockstep for the weights due.

        Returns False when told to stop before they have arrived.
        """
        needed = self._needed_env_steps if self._lockstep else 0
        while self._weights is None or self._weights.env_steps < needed:
            if self._should_stop():
                return False
            with self._telemetry.waiting():
                self._load(self._weights_source.take(wait=True))
        if not self._lockstep:
            self._look_for_weights()
        return True

    def _look_for_weights(self) -> None:
        """Take newer weights that are here and request the newest at intervals, or at once after a wait."""
        if self._has_waited:
            # An answer to a request made before the wait is as old as the wait was long.
            with self._telemetry.waiting():
                self._load(self._weights_source.renew())
            self._has_waited, self._asked_at = False, self._vector_steps
            return
        self._load(self._weights_source.take())
        if self._vector_steps - self._asked_at >= self._config.weights_poll_steps:
            self._weights_source.ask()  # Answered while the environments step.
            self._asked_at = self._vector_steps

    def _load(self, weights: Weights | None) -> None:
        if weights is not None:
            self._policy.load(weights)
            self._weights = weights
            self._weights_age.arrived(weights)


def _policy_seed(seed: int, slot: int, incarnation: int) -> int:
    # The spawn key keeps this stream apart from the environments' streams, however many there are.
    choices = np.random.SeedSequence([seed, slot, incarnation, 0], spawn_key=(1,))
    return int(choices.generate_state(1, np.uint64)[0])


def _make_builders(
    config: ActorConfig, replay: ReplayConfig, signature: Signature, *, slot: int, incarnation: int
) -> list[SegmentBuilder]:
    """Return one builder per environment; they share one sequence of segment numbers."""
    sequence = itertools.count()
    return [
        SegmentBuilder(
            signature,
            actor=slot,
            incarnation=incarnation,
            env_slot=env,
            num_slots=config.envs_per_actor,
            segment_steps=replay.segment_steps,
            next_seq=lambda: next(sequence),
            priority_rule=replay.return_rule if config.actor_priorities else None,
        )
        for env in range(config.envs_per_actor)
    ]
