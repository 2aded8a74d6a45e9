"""Collects the env steps of one environment slot into segments."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from replay.config import ReturnRule
from replay.segments.returns import n_step_returns
from replay.types import Segment, SegmentIdentity, Signature

# A plain tuple a step is cheap; columns are made when the segment is full (decision 0016).
Step = tuple[int, float, bool, bool, bool, int, float, float]
"""Action, reward, terminated, truncated, life lost, weights version, Q of the action, largest Q."""


class SegmentBuilder:
    """Turns one slot's stream of env steps into segments; every step becomes exactly one item.

    A segment is full when `segment_steps` of its steps have complete windows. That takes
    `n_step - 1` more steps, with which the next segment begins. An episode's end and `drain` close
    a segment and make all its steps items. The first segment, the first after a drain, and the first
    of an episode that follows an episode of `segment_steps` or more, has only
    `segment_steps * (env_slot + 1) // num_slots` items (at least 1), so that the slots of an actor
    do not all fill up at once, even where all their games have the same length. After shorter
    episodes it has `segment_steps`, lest each of them be cut in two.

    With a `priority_rule` each item gets the initial priority |R + discount * max Q(s_{t+m}) -
    Q(s_t, a_t)| (Horgan et al., 2018, algorithm 1). The bootstrap of a window is known one call
    later, when the actor has evaluated its last observation: full segments and segments ended by a
    time limit are returned by the next call.
    """

    def __init__(
        self,
        signature: Signature,
        *,
        actor: int,
        incarnation: int,
        env_slot: int,
        num_slots: int,
        segment_steps: int,
        next_seq: Callable[[], int],
        priority_rule: ReturnRule | None = None,
    ) -> None:
        """Create a builder for one slot.

        `next_seq` numbers the segments of all slots of an actor's incarnation. `priority_rule` says
        how the returns in initial priorities are computed; None: no initial priorities.
        """
        self._signature = signature
        self._actor = actor
        self._incarnation = incarnation
        self._env_slot = env_slot
        self._segment_steps = segment_steps
        self._next_seq = next_seq
        self._priority_rule = priority_rule
        self._short_starts = max(1, segment_steps * (env_slot + 1) // num_slots)
        self._set_starts(self._short_starts)
        # Frames of a full segment: stack - 1 before its first step's, one per step, and the last next frame.
        room = signature.stack + segment_steps + signature.n_step - 1
        self._frames = np.zeros((room, *signature.frame_shape), np.uint8)
        self._lead = 0
        self._first_step = 0
        self._steps: list[Step] = []
        self._ready: list[Segment] = []
        self._in_episode = False

    @property
    def open_steps(self) -> int:
        """Number of added steps that are not yet items of a returned segment; a killed actor loses them."""
        return len(self._steps) + sum(segment.num_items for segment in self._ready)

    def reset(self, frame: NDArray[np.uint8], q_max: float | None = None) -> None:
        """Begin an episode with its first frame, uint8 of the signature's shape, which is copied.

        Steps still open (of an episode that ended by a time limit, or was abandoned) form a
        segment, which the next call of `add` or `drain` returns. `q_max` is max Q of the last
        observation before the reset, None if unknown; see `drain`.
        """
        self._check_frame(frame)
        if self._steps:
            self._ready.append(self._close(q_max))
        # Here `_first_step` is the length of the episode that ended; equal games end in step.
        if self._first_step >= self._segment_steps:
            self._set_starts(self._short_starts)
        self._lead = self._first_step = 0
        self._frames[0] = frame
        self._in_episode = True

    def add(
        self,
        action: int,
        reward: float,
        next_frame: NDArray[np.uint8],
        terminated: bool,
        truncated: bool,
        life_lost: bool = False,
        weights_version: int = 0,
        *,
        q_taken: float | None = None,
        q_max: float | None = None,
    ) -> list[Segment]:
        """Add one env step; return the segments that it completes, mostly none.

        `reward` is raw. `next_frame`, uint8, is copied; it is the newest frame after the
        step, at an episode's end its true last frame. `q_taken` = Q(s, a) and `q_max` = max Q(s)
        belong to the observation acted upon, and are required with a `priority_rule`. Raises
        ValueError for a reward that is not finite, for a frame of another shape, and for a step
        after an episode's end without a reset.
        """
        if not self._in_episode:
            raise ValueError("a step outside of an episode: reset first")
        if not math.isfinite(reward):
            raise ValueError(f"reward {reward} is not a finite number")
        if self._priority_rule and (q_taken is None or q_max is None):
            raise ValueError("actor priorities need q_taken and q_max of every step")
        # All checks come first: after an error, the builder is as it was before the call.
        self._check_frame(next_frame)
        finished = self._take_ready() if self._ready else []
        steps = self._steps
        if len(steps) == self._full_at:
            # The actor has evaluated the last observation of a full segment: its last bootstrap is known.
            finished.append(self._emit(self._starts, q_max))
            steps = self._steps
        self._frames[self._lead + len(steps) + 1] = next_frame
        values = (q_taken or 0.0, q_max or 0.0)
        steps.append((action, reward, terminated, truncated, life_lost, weights_version, *values))
        if terminated or truncated:
            self._in_episode = False
            # A true end needs no bootstrap; after a time limit, the last observation is still evaluated.
            if terminated or not self._priority_rule:
                finished.append(self._close(None))
        elif len(steps) == self._full_at and not self._priority_rule:
            finished.append(self._emit(self._starts, None))
        return finished

    def drain(self, q_max: float | None = None) -> list[Segment]:
        """Return all open steps as segments, the last items with shorter windows; the episode may continue.

        `q_max` is max Q of the newest observation, from which the last windows bootstrap. If it is
        None, max Q of the observation before it is used instead, which only affects initial
        priorities.
        """
        if self._steps:
            self._ready.append(self._close(q_max))
            self._set_starts(self._short_starts)
        return self._take_ready()

    def _set_starts(self, starts: int) -> None:
        self._starts, self._full_at = starts, starts + self._signature.n_step - 1

    def _take_ready(self) -> list[Segment]:
        ready, self._ready = self._ready, []
        return ready

    def _check_frame(self, frame: NDArray[np.uint8]) -> None:
        # Assignment would silently broadcast a frame of another shape and cast a frame of another dtype.
        if frame.shape != self._signature.frame_shape or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {self._signature.frame_shape}")

    def _close(self, q_max: float | None) -> Segment:
        return self._emit(len(self._steps), q_max)

    def _emit(self, num_items: int, q_max: float | None) -> Segment:
        """Make a segment of all open steps, the first `num_items` of them items; keep the rest open."""
        steps = self._steps
        actions, rewards, terminated, truncated, life_lost, versions, *_ = zip(*steps, strict=True)
        segment = Segment(
            identity=SegmentIdentity(self._actor, self._incarnation, self._next_seq()),
            env_slot=self._env_slot,
            first_step=self._first_step,
            num_items=num_items,
            lead=self._lead,
            # Handing out the buffer itself was no faster (docs/decisions/0016).
            frames=self._frames[: self._lead + len(steps) + 1].copy(),
            actions=np.array(actions, np.int32),
            rewards=np.array(rewards, np.float32),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            life_lost=np.array(life_lost, np.bool_),
            weights_version=int(versions[0]),
        )
        if self._priority_rule:
            segment = replace(segment, priorities=self._priorities(self._priority_rule, segment, q_max))
        self._advance(num_items)
        return segment

    def _priorities(self, rule: ReturnRule, segment: Segment, q_max: float | None) -> NDArray[np.float32]:
        start = np.arange(segment.num_items, dtype=np.int64)
        returns = n_step_returns(
            segment.rewards,
            segment.terminated,
            segment.truncated,
            segment.life_lost,
            start,
            np.full(segment.num_items, segment.num_steps, np.int64),
            rule,
        )
        *_, taken, largest = zip(*self._steps, strict=True)
        # (num_steps + 1,): the last is of the observation after the last step.
        q_maxes = np.array([*largest, largest[-1] if q_max is None else q_max], np.float32)
        q_taken = np.array(taken[: segment.num_items], np.float32)
        errors = returns.reward + returns.discount * q_maxes[start + returns.steps] - q_taken
        priorities: NDArray[np.float32] = np.abs(errors, dtype=np.float32)
        return priorities

    def _advance(self, num_items: int) -> None:
        """Drop the first steps; keep the frames that the next first item's observation needs."""
        self._first_step += num_items
        lead = min(self._signature.stack - 1, self._first_step)
        oldest = self._lead + num_items - lead
        # A copy, because source and target overlap.
        kept = self._frames[oldest : self._lead + len(self._steps) + 1].copy()
        self._frames[: len(kept)] = kept
        self._lead = lead
        self._steps = self._steps[num_items:]
        self._set_starts(self._segment_steps)
