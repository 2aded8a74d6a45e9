"""Configuration of acting: environment, exploration and actors; every field is one command-line flag."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnvironmentConfig:
    """The environment. Every setting is explicit: the library's defaults are never relied on."""

    game: str = "pong"
    """Atari game by its ROM name (`ms_pacman`); `MsPacman` and `ms-pacman` are accepted too."""
    env: str = ""
    """A vector environment other than Atari: a Gymnasium id or `module:callable`, with uint8 images, which
    are converted to grey. Nothing is resized: their size must be one that the encoder accepts."""
    repeat_action_probability: float = 0.25
    """Sticky actions (Machado et al., 2018)."""
    frame_skip: int = 4
    """Emulator frames per env step; the last two are max-pooled."""
    max_frames_per_episode: int = 108_000
    """Time limit of an episode in emulator frames (30 minutes); reaching it truncates the episode."""
    noop_max: int = 0
    """Maximum number of random no-ops at the start of an episode; each is an env step and none is a
    transition (Atari games only)."""
    full_action_space: bool = False
    """Use all 18 actions instead of the game's minimal set."""
    frame_height: int = 84
    """Height of a frame in pixels."""
    frame_width: int = 84
    """Width of a frame in pixels."""
    stack: int = 4
    """Frames stacked into one observation."""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy exploration; noisy networks also explore through their noise."""

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
    """The fleet's actors: each is one Ray actor process on one CPU core with several environments."""

    num_actors: int = 4
    """Actor processes at the start; `apexpert scale` changes the number while the run is active."""
    envs_per_actor: int = 8
    """Environments that each actor steps as one batch."""
    weights_poll_steps: int = 100
    """Vector steps between two requests for the newest weights; the answer is picked up once it arrives."""
    actor_priorities: bool = False
    """Send each item's TD error as its first priority (Ape-X); otherwise items enter with the largest one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of acting; `auto` is bfloat16 where the CPU has instructions for it."""
