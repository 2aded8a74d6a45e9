"""Games through the real path: emulator, policy, segments, their bytes, and back."""

from collections.abc import Callable

import numpy as np

from actors.config import EnvironmentConfig
from actors.environments import describe_environment, list_games
from replay.segments.codec import decode, encode
from replay.types import Signature
from tests.helpers.actors.acting import RecordingWriter, WeightsQueue, make_actor, weights

STEPS = 40
SAMPLE = (
    "adventure",  # The emulator's own difficulty switches.
    "et",  # Two letters.
    "montezuma_revenge",  # All 18 actions.
    "pong",
    "skiing",  # Rewards far below -1, and 3 actions.
    "video_pinball",  # Rewards in the thousands.
)


def play_through(game: str, steps: int = STEPS) -> int:
    """Have an actor play a game for some vector steps; returns the transitions, read back from their bytes.

    AssertionError for a transition that is lost, or for a game that shows one picture only.
    """
    environment = EnvironmentConfig(game=game)
    spec = describe_environment(environment)
    writer = RecordingWriter()
    first = weights(num_actions=spec.num_actions)
    actor = make_actor(environment, writer, WeightsQueue(first), num_envs=2)
    try:
        for _ in range(steps):
            actor.step()
        actor.drain()
        made = int(actor.metrics()["actors/env_steps"])
    finally:
        actor.close()
    signature = Signature(spec.frame_shape, environment.stack, 3, spec.num_actions)
    read = [decode(encode(part, "r", signature), run="r", signature=signature) for part in writer.segments]
    stored = sum(segment.num_items for segment in read)
    assert stored == made > steps, f"{game}: {stored} of {made} transitions"
    assert all(np.isfinite(segment.rewards).all() for segment in read), game
    frames = np.concatenate([segment.frames for segment in read])
    assert (frames != frames[0]).any(), f"{game}: its picture never changes"
    return stored


def play_all(say: Callable[[str], object] = print) -> dict[str, int]:
    """Play every game that ale-py ships; returns the transitions of each."""
    played = {game: play_through(game) for game in list_games()}
    say(f"{len(played)} games, {sum(played.values()):,} transitions")
    return played
