"""How actors act: environment, exploration, and the actor itself; every field is one command-line flag."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnvironmentConfig:
    """The environment, with every setting explicit (library defaults are never relied on)."""

    game: str = "pong"
    """Atari game by its ROM name (`ms_pacman`); `MsPacman` and `ms-pacman` are understood too."""
    env: str = ""
    """Another vector environment than Atari: a Gymnasium id or `module:callable`, with uint8 images, which
    become grey. Of a size that the encoder takes: nothing is resized."""
    repeat_action_probability: float = 0.25
    """Sticky actions (Machado et al., 2018)."""
    frame_skip: int = 4
    """Emulator frames an env step; the last two are max-pooled."""
    max_frames_per_episode: int = 108_000
    """Time limit of an episode in emulator frames (30 minutes); reaching it is a truncation."""
    noop_max: int = 0
    """Largest number of random no-ops at an episode's start, each an env step and none of them a transition
    (Atari games only)."""
    full_action_space: bool = False
    """All 18 actions instead of the game's minimal set."""
    frame_height: int = 84
    """Height of a frame in pixels."""
    frame_width: int = 84
    """Width of a frame in pixels."""
    stack: int = 4
    """Frames stacked into an observation."""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy exploration; noisy networks explore beside it where the network has them."""

    kind: Literal["linear", "ladder"] = "linear"
    """`linear`: one schedule for the fleet. `ladder`: a fixed epsilon per env slot (Horgan et al., 2018)."""
    epsilon_start: float = 1.0
    """Epsilon until the warm-up ends."""
    epsilon_end: float = 0.01
    """Epsilon after the decay."""
    epsilon_decay_steps: int = 250_000
    """Env steps of the fleet, counted from the end of the warm-up, over which epsilon falls linearly."""
    ladder_base: float = 0.4
    """Ladder: epsilon = base ** (1 + exponent * position), position in [0, 1]."""
    ladder_exponent: float = 7.0
    """Ladder: see `ladder_base`."""


@dataclass(frozen=True)
class ActorConfig:
    """The fleet's actors: one Ray actor process each, one CPU core, several environments."""

    num_actors: int = 4
    """Actor processes at start; `apexpert scale` changes it while the run goes on."""
    envs_per_actor: int = 8
    """Environments each actor steps as one batch."""
    weights_poll_steps: int = 100
    """Vector steps between two questions for the newest weights; the answer is taken when it is there."""
    actor_priorities: bool = False
    """Actors send each item's TD error as its first priority (Ape-X); else items enter with the largest."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of acting; `auto` is bfloat16 where the CPU has instructions for it."""
