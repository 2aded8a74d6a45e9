"""Configuration of acting: environment, exploration and actors; every field is one command-line flag."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from apexpert.limits import SHARE, Ge, Gt, Interval, InWords, Predicate

MOST_ACTORS = 10_000
"""Each keeps a question pending at the weight store and a heartbeat at the supervisor, one process each."""
SO_MANY_ACTORS = (
    f"1 to {MOST_ACTORS}, which is what one supervisor and one weight store are made for, auto:MIN-MAX for"
    " as many within that range as the learner has use for, or auto for as many as cores are free"
)

Actors = int | str
"""What `--actors` takes: a number, `auto` or `auto:MIN-MAX`."""


@dataclass(frozen=True)
class ActorRange:
    """How many actors a run may have, as `--actors` says it."""

    least: int
    most: int | None
    """None: as many as cores are free."""
    is_elastic: bool
    """Whether the run chooses within the range by itself, and goes on choosing."""

    @classmethod
    def parse(cls, asked: Actors) -> Self:
        """Parse a number, `auto` or `auto:MIN-MAX`; raise ValueError for anything else or out of reach."""
        if asked == "auto":
            return cls(1, None, True)
        if isinstance(asked, str):
            match = re.fullmatch(r"auto:(\d{1,6})-(\d{1,6})", asked)
            if match is None:
                raise ValueError(f"{asked!r} is neither a number, auto nor auto:MIN-MAX")
            parsed = cls(int(match[1]), int(match[2]), True)
        else:
            parsed = cls(asked, asked, False)
        assert parsed.most is not None
        if not 1 <= parsed.least <= parsed.most <= MOST_ACTORS:
            raise ValueError(f"{asked} is not within 1 to {MOST_ACTORS}")
        return parsed

    def nearest(self, actors: int, free: int | None = None) -> int:
        """Return the number within the range that is nearest to `actors`.

        `free`: cores for actors, which bound a range without an end; None leaves it without one.
        """
        most = self.most if self.most is not None else free
        return max(self.least, actors if most is None else min(actors, most))


def is_actor_count(asked: Actors) -> bool:
    """Whether `ActorRange.parse` takes it."""
    try:
        ActorRange.parse(asked)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class EnvironmentConfig:
    """The environment. Every setting is explicit: the library's defaults are never relied on."""

    game: str = "pong"
    """Atari game by its ROM name (`ms_pacman`); `MsPacman` and `ms-pacman` are accepted too."""
    env: str = ""
    """An environment other than Atari: minatar:GAME (`pip install minatar`), a Gymnasium id or
    `module:callable`, with images of uint8 or planes of bool. Colour becomes grey, any other number of
    channels is kept. Nothing is resized: the size must be one that the encoder accepts."""
    repeat_action_probability: Annotated[float, Interval(ge=0, lt=1)] = 0.25
    """Sticky actions (Machado et al., 2018), in Atari and MinAtar."""
    frame_skip: Annotated[int, Gt(0)] = 4
    """Emulator frames per env step; the last two are max-pooled (Atari games only: any other environment
    skips frames itself, or none, and an env step counts as one frame)."""
    max_frames_per_episode: Annotated[int, Gt(0)] = 108_000
    """Time limit of an episode in emulator frames (30 minutes); reaching it truncates the episode (Atari and
    MinAtar: any other environment has its own limit, or none)."""
    noop_max: Annotated[int, Ge(0)] = 0
    """Maximum number of random no-ops at the start of an episode; each is an env step and none is a
    transition (Atari games only)."""
    full_action_space: bool = False
    """Use all 18 actions (MinAtar: 6) instead of the game's minimal set."""
    frame_height: Annotated[int, Ge(16)] = 84
    """Height of a frame in pixels."""
    frame_width: Annotated[int, Ge(16)] = 84
    """Width of a frame in pixels."""
    stack: Annotated[int, Interval(ge=1, le=32)] = 4
    """Frames stacked into one observation."""

    @property
    def frames_per_env_step(self) -> int:
        """Frames that an env step counts as: `frame_skip` is applied to Atari games alone."""
        return 1 if self.env else self.frame_skip


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy exploration; noisy networks also explore through their noise."""

    kind: Literal["linear", "ladder"] = "linear"
    """`linear`: one schedule for the fleet. `ladder`: a fixed epsilon per env slot (Horgan et al., 2018)."""
    epsilon_start: Annotated[float, SHARE] = 1.0
    """Epsilon until the warm-up ends."""
    epsilon_end: Annotated[float, SHARE] = 0.01
    """Epsilon after the decay."""
    epsilon_decay_steps: Annotated[int, Gt(0)] = 250_000
    """Env steps of the fleet, counted from the end of the warm-up, over which epsilon falls linearly."""
    ladder_base: Annotated[float, SHARE] = 0.4
    """Ladder: epsilon = base ** (1 + exponent * position), position in [0, 1]."""
    ladder_exponent: Annotated[float, Ge(0)] = 7.0
    """Ladder: see `ladder_base`."""


@dataclass(frozen=True)
class ActorConfig:
    """The fleet's actors: each is one Ray actor process on one CPU core with several environments."""

    num_actors: Annotated[Actors, Predicate(is_actor_count), InWords(SO_MANY_ACTORS)] = 4
    """Actor processes: a number; `auto:MIN-MAX` for as many as the learner has use for, looked at every
    minute; or `auto`, as many as cores are free on the Ray it runs on, and fewer where they wait.
    `apexpert scale` changes it while the run is active."""
    envs_per_actor: Annotated[int, Gt(0)] = 8
    """Environments that each actor steps as one batch."""
    weights_poll_steps: Annotated[int, Gt(0)] = 100
    """Vector steps between two requests for the newest weights; the answer is picked up once it arrives."""
    actor_priorities: bool = False
    """Send each item's TD error as its first priority (Ape-X); otherwise items enter with the largest one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of acting; `auto` is bfloat16 where the CPU has instructions for it."""

    @property
    def range(self) -> ActorRange:
        """How many actors there may be."""
        return ActorRange.parse(self.num_actors)
