"""Actors small enough for tests, and what stands around them: a writer, weights, and a watch."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.actor import Actor, SegmentWriter
from actors.config import ActorConfig, EnvironmentConfig, ExplorationConfig
from actors.policy import Actions
from actors.vector_environment import StepResult
from actors.weights import WeightsSource
from models.arrays import Weights, flatten
from models.config import NetworkConfig
from models.q_network import build_network
from replay.config import ReplayConfig
from replay.errors import WriterStopped
from replay.types import Segment
from tests.helpers.replay.brute_force import RecordedStep

NETWORK = NetworkConfig(
    encoder="nature", padding="valid", head="dense", dense_hidden_units=16, noisy=False, values="scalar"
)
CATCH = EnvironmentConfig(env="tests.helpers.catch:make")
RETURNS = {"gamma": 0.9, "reward_clip": 1.0, "life_loss_terminates": False}


class RecordingWriter:
    """Takes segments as they come; refuses while `closed`, as the real one does when told to stop."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.waits: list[bool] = []
        self.closed = False

    def write(self, segment: Segment, *, wait: bool = True) -> int:
        if wait and self.closed:
            raise WriterStopped("told to stop")
        self.segments.append(segment)
        self.waits.append(wait)
        return 1

    def metrics(self) -> dict[str, float]:
        return {"writer/segments": float(len(self.segments))}


class WeightsQueue:
    """Gives what was put into it, one at a time, to whoever asks or waits; counts both."""

    def __init__(self, *weights: Weights) -> None:
        self.queue, self.asks, self.waits, self.asked = deque(weights), 0, 0, False

    def ask(self) -> None:
        self.asks += 1
        self.asked = True

    def take(self, wait: bool = False) -> Weights | None:
        self.waits += wait
        answered, self.asked = self.asked or wait, False
        return self.queue.popleft() if answered and self.queue else None

    def renew(self) -> Weights | None:
        self.ask()
        return self.take()


def weights(
    version: int = 0,
    env_steps: int = 0,
    num_actions: int = 3,
    shape: tuple[int, int, int] = (4, 84, 84),
    seed: int = 0,
) -> Weights:
    network = build_network(NETWORK, num_actions, observation_shape=shape, seed=seed)
    return Weights(version, flatten(network), env_steps)


def make_actor(
    environment: EnvironmentConfig = CATCH,
    writer: SegmentWriter | None = None,
    source: WeightsSource | None = None,
    *,
    num_envs: int = 3,
    replay: ReplayConfig | None = None,
    **settings: Any,
) -> Actor:
    config = {key: settings.pop(key) for key in ("actor_priorities", "weights_poll_steps") if key in settings}
    return Actor(
        ActorConfig(envs_per_actor=num_envs, precision="float32", **config),
        environment,
        settings.pop("exploration", ExplorationConfig(epsilon_decay_steps=1000)),
        NETWORK,
        replay or ReplayConfig(segment_steps=8, n_step=3, gamma=0.9, min_size=100),
        slot=settings.pop("slot", 2),
        incarnation=settings.pop("incarnation", 5),
        seed=settings.pop("seed", 1),
        writer=writer or RecordingWriter(),
        weights=source or WeightsQueue(weights()),
        **settings,
    )


class Watch:
    """Notes what environments and policy of an actor say to each other, step by step."""

    def __init__(self, actor: Actor) -> None:
        self.observations: list[NDArray[np.uint8]] = []
        self.actions: list[Actions] = []
        self.results: list[StepResult] = []
        self.first: NDArray[np.uint8] | None = None
        environment, policy = actor._environment, actor._policy
        step, reset, act = environment.step, environment.reset, policy.act

        def watched_reset() -> NDArray[np.uint8]:
            self.first = reset()
            return self.first

        def watched_step(actions: NDArray[np.int64]) -> StepResult:
            self.results.append(step(actions))
            return self.results[-1]

        def watched_act(
            observations: NDArray[np.uint8], epsilon: NDArray[np.float64] | float, **options: bool
        ) -> Actions:
            self.observations.append(observations.copy())
            self.actions.append(act(observations, epsilon, **options))
            return self.actions[-1]

        for owner, name, watched in (
            (environment, "reset", watched_reset),
            (environment, "step", watched_step),
            (policy, "act", watched_act),
        ):
            setattr(owner, name, watched)

    def stream(self, env: int) -> list[RecordedStep]:
        assert self.first is not None
        frame, steps = self.first[env], []
        for result, actions in zip(self.results, self.actions, strict=True):
            if result.valid[env]:
                steps.append(
                    RecordedStep(
                        frame=frame,
                        action=int(actions.action[env]),
                        reward=float(result.rewards[env]),
                        terminated=bool(result.terminated[env]),
                        truncated=bool(result.truncated[env]),
                        life_lost=bool(result.life_lost[env]),
                        next_frame=result.frames[env],
                    )
                )
            frame = result.frames[env]
        return steps

    def observations_acted_on(self, env: int) -> list[NDArray[np.uint8]]:
        pairs = zip(self.observations, self.results, strict=True)
        return [observation[env] for observation, result in pairs if result.valid[env]]
