"""Batches are the brute force's transitions bit for bit, their frames coming from the store or from Redis."""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.config import EnvironmentConfig
from replay.sampler import Sampler
from replay.types import Batch, Segment
from tests.helpers.actors.recording import RecordedAtari
from tests.helpers.replay import brute_force
from tests.helpers.replay.brute_force import RecordedStep
from tests.helpers.replay.samplers import (
    Run,
    ingest_all,
    new_run,
    replay_config,
    same_batches,
    small_signature,
)
from tests.helpers.replay.streams import random_stream, streams
from tests.helpers.shards.servers import shared_urls

SMALL_STORE = 1_000_000
"""Bytes for a few segments' frames."""


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


def every_item_once(run: Run) -> None:
    """All items, each once: the brute force's, with all frames in the store, with some, and with none."""
    size = sum(map(len, run.items.values()))
    full: Batch | None = None
    longest = max(segment.frames.nbytes for segment in run.segments.values())
    for store_bytes in (None, longest, 0):
        sampler = run.sampler(store_bytes=store_bytes, batch_size=size)
        ingest_all(sampler)
        assert sampler.inserted == sampler.size == size
        rows = sampler.table.slots[sampler.table.in_order()]
        assert (rows["num_steps"] < rows["num_items"] + run.config.n_step).all()  # no more than needed
        batch = sampler.sample()
        assert len(np.unique(batch.leaf)) == size
        check_misses(sampler, store_bytes, size)
        run.check(sampler, batch)
        full = full or batch
        assert same_batches(full, batch)


def check_misses(sampler: Sampler, store_bytes: int | None, size: int) -> None:
    misses = sampler.metrics()["replay/frame_store_misses"]
    assert misses == (0 if store_bytes is None else size) or (store_bytes and misses < size)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    recorded=st.lists(streams(60), min_size=1, max_size=3),
    stack=st.integers(1, 5),
    n_step=st.integers(1, 5),
    stored_more=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    segment_steps=st.integers(1, 20),
    reward_clip=st.sampled_from([0.0, 1.0]),
    life_loss_terminates=st.booleans(),
)
def test_all_ways_are_the_brute_force(
    urls: list[str],
    recorded: list[list[RecordedStep]],
    stack: int,
    n_step: int,
    stored_more: tuple[int, int],
    segment_steps: int,
    reward_clip: float,
    life_loss_terminates: bool,
) -> None:
    config = replay_config(
        prioritized=False,
        n_step=n_step,
        segment_steps=segment_steps,
        reward_clip=reward_clip,
        life_loss_terminates=life_loss_terminates,
    )
    run = Run(urls, small_signature(config, stack), config)
    data = replace(run.signature, stack=stack + stored_more[0], n_step=n_step + stored_more[1])
    for slot, stream in enumerate(recorded):
        segments = run.record(stream, actor=slot % 2, env_slot=slot, num_slots=len(recorded), data=data)
        for i, segment in enumerate(segments):
            run.write([segment], shard=(slot + i // 3) % 2, data=data)
    every_item_once(run)


CASES = {
    "true end", "time limit", "both ends and a lost life in one stream", "lost life inside an episode",
    "drain inside an episode", "next incarnation", "reward clipped", "negative reward",
    "stack at an episode's start, after another episode", "stack over a border",
    "window cut by a true end", "window cut by a time limit", "window cut by a drain",
    "window cut by a lost life", "window over a border",
}  # fmt: skip
NO_CLIPPING = {"reward clipped", "negative reward"}
NO_WINDOWS = {name for name in CASES if name.startswith("window")}
NO_LIVES = {
    "true end", "both ends and a lost life in one stream", "lost life inside an episode", "reward clipped",
    "window cut by a true end", "window cut by a lost life",
}  # fmt: skip


@dataclass(frozen=True)
class Game:
    """A game to record: with this limit (env steps) random play ends truly at times, at others by it."""

    name: str
    limit: int
    n_step: int
    lacks: set[str]
    readers: tuple[tuple[int, int], ...] = ()
    """Further stacks and n-steps to read it with."""
    actor_priorities: bool = False


GAMES = [
    Game("breakout", 140, 1, NO_CLIPPING | NO_WINDOWS),
    Game("road_runner", 150, 3, {"negative reward"}),
    Game("breakout", 140, 10, NO_CLIPPING, readers=((2, 3), (1, 1)), actor_priorities=True),
    Game("pong", 100, 3, NO_LIVES),
]


@pytest.fixture(scope="module", params=GAMES, ids=lambda game: f"{game.name}-{game.n_step}")
def game(request: pytest.FixtureRequest) -> Game:
    game: Game = request.param
    return game


@pytest.fixture(scope="module")
def recorded(urls: list[str], game: Game) -> RecordedAtari:
    environment = EnvironmentConfig(game=game.name, max_frames_per_episode=4 * game.limit)
    config = replay_config(prioritized=False, n_step=game.n_step, segment_steps=32)
    recorded = RecordedAtari(urls, environment, config, actor_priorities=game.actor_priorities)
    recorded.play()
    return recorded


def cases(run: Run, segments: list[Segment], stream: list[RecordedStep]) -> Iterator[str]:
    """Name the cases that one environment's stream, segments and items (by brute force) truly have."""
    items = [item for segment in segments for item in run.items[segment.identity]]
    stack, n_step, clip = run.signature.stack, run.signature.n_step, run.config.reward_clip
    for at, (step, item) in enumerate(zip(stream, items, strict=True)):
        ends = step.terminated or step.truncated
        yield from ["true end"] * step.terminated + ["time limit"] * step.truncated
        yield from ["lost life inside an episode"] * (step.life_lost and not ends)
        yield from ["reward clipped"] * (abs(step.reward) > clip) + ["negative reward"] * (step.reward < 0)
        if step.drained_after and not ends and at + 1 < len(stream):
            yield "drain inside an episode"
        if item.episode > 0 and item.step < stack - 1:
            yield "stack at an episode's start, after another episode"
        if item.num_window_steps < n_step:
            last = stream[at + item.num_window_steps - 1]
            cuts = {
                "true end": last.terminated,  # which is the loss of the last life as well
                "time limit": last.truncated,
                "lost life": last.life_lost and not last.terminated,
                "drain": last.drained_after,
            }
            if sum(cuts.values()) == 1:  # nothing else explains it
                yield from (f"window cut by a {name}" for name, cut in cuts.items() if cut)
    for before, segment in itertools.pairwise(segments):
        if segment.first_step == before.first_step + before.num_items:
            yield from ["stack over a border"] * (segment.lead == stack - 1)
            yield from ["window over a border"] * (before.num_steps > before.num_items)


def test_the_recordings_have_every_case(recorded: RecordedAtari, game: Game) -> None:
    run = recorded.read_as(life_loss_terminates=True)
    found: Counter[str] = Counter()
    for player in recorded.players:
        found["next incarnation"] += player.writer.segments[0].identity.incarnation > 0
        for env, stream in enumerate(player.environment.streams):
            segments = [segment for segment in player.writer.segments if segment.env_slot == env]
            own = Counter(cases(run, segments, stream))
            both = {"true end", "time limit", "lost life inside an episode"} <= own.keys()
            found += own + Counter({"both ends and a lost life in one stream": int(both)})
    assert set(found) == CASES - game.lacks
    sampler = run.sampler()
    ingest_all(sampler)
    rows = sampler.table.slots[sampler.table.in_order()]
    loads = [int(rows["num_items"][rows["shard"] == shard].sum()) for shard in range(len(run.shards))]
    assert len(loads) == 3
    assert min(loads) > 100
    assert max(loads) > 2 * min(loads)
    assert {segment.env_slot for segment in run.segments.values()} == {0, 1, 2}


@pytest.mark.parametrize("life_loss_terminates", [False, True])
def test_recorded_atari_is_the_brute_force(
    recorded: RecordedAtari, game: Game, life_loss_terminates: bool
) -> None:
    """As recorded, and with the lowered stacks and n-steps; once each item, then at random."""
    for stack, n_step in [(4, game.n_step), *game.readers]:
        run = recorded.read_as(stack=stack, n_step=n_step, life_loss_terminates=life_loss_terminates)
        every_item_once(run)
        run.config = replace(run.config, prioritized=True)
        for store_bytes in (None, SMALL_STORE, 0):
            sampler = run.sampler(store_bytes=store_bytes)
            ingest_all(sampler)
            rng = np.random.default_rng(1)
            for _ in range(8):
                batch = sampler.sample()
                run.check(sampler, batch)
                sampler.update_priorities(batch.leaf, batch.generation, rng.exponential(size=32) ** 3)


def three_runs(urls: list[str]) -> tuple[list[Run], list[Segment]]:
    """Three runs that expect the same segments, which are not written yet, of six streams in any order."""
    runs = [new_run(urls[:2], capacity=500, segment_steps=12) for _ in range(3)]
    for one in runs[1:]:
        one.segments, one.items = runs[0].segments, runs[0].items
    for actor in range(6):
        runs[0].record(random_stream(actor, 250, end=0.04, drain=0.02), actor=actor)
    segments = list(runs[0].segments.values())
    return runs, [segments[i] for i in np.random.default_rng(5).permutation(len(segments))]


def test_batches_are_the_same_with_any_store_while_everything_changes(urls: list[str]) -> None:
    """In step: segments come, the oldest leave and priorities are set, all between the draws."""
    runs, waiting = three_runs(urls)
    some = 12 * max(segment.frames.nbytes for segment in waiting)
    samplers = [run.sampler(store_bytes=size) for run, size in zip(runs, (None, some, 0), strict=True)]
    random = np.random.default_rng(6)
    while waiting:
        count, shard = random.integers((1, 0), (8, 2)).tolist()
        new, waiting = waiting[:count], waiting[count:]
        for run, sampler in zip(runs, samplers, strict=True):
            run.write(new, shard)
            ingest_all(sampler)
        for _ in range(3):
            batches = [sampler.sample() for sampler in samplers]
            runs[0].check(samplers[0], batches[0])
            assert same_batches(batches[0], batches[1])
            assert same_batches(batches[0], batches[2])
            priorities = random.exponential(size=32) ** 3
            for sampler, batch in zip(samplers, batches, strict=True):
                sampler.update_priorities(batch.leaf, batch.generation, priorities)
    metrics = [sampler.metrics() for sampler in samplers]
    misses = [one.pop("replay/frame_store_misses") for one in metrics]
    held = [one.pop("replay/frame_store_bytes") for one in metrics]
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0]["replay/evicted"] > 500
    assert misses[0] == 0 < misses[1] < misses[2] == samplers[2].sampled
    assert held[0] > held[1] > held[2] == 0


def test_draws_while_actors_play_are_the_brute_force(recorded: RecordedAtari) -> None:
    """Each batch was drawn from what was there at the time; later steps change nothing of it."""
    assert recorded.drawn
    run = recorded.read_as()
    for places, batch in recorded.drawn:
        run.check_rows(places, batch)


def test_the_brute_force_shares_no_code_with_the_replay() -> None:
    tree = ast.parse(Path(brute_force.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"collections", "dataclasses", "numpy"}
