"""The sampler on real servers: proportions, importance weights, priority updates, copies and limits."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from replay.sampler import Sampler
from replay.types import Batch, SegmentIdentity
from replay.writer import Writer
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, ingest_all, located, new_run
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.commands import reserve
from tests.helpers.shards.servers import shared_urls

Key = tuple[SegmentIdentity, int]


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


class Model:
    """Masses by item, kept beside a sampler in the slowest way."""

    def __init__(self, run: Run, sampler: Sampler) -> None:
        self.run, self.sampler = run, sampler
        self.mass: dict[Key, float] = {}
        self.largest = 1.0

    def insert(self) -> None:
        """Take in what the sampler indexes now and drop what it does not any more."""
        table = self.sampler.table
        present = [table.identity(slot) for slot in table.in_order().tolist()]
        for identity in present:
            for place in range(len(self.run.items[identity])):
                self.mass.setdefault((identity, place), self.largest)
        self.mass = {key: mass for key, mass in self.mass.items() if key[0] in set(present)}

    def update(self, batch: Batch, priorities: np.ndarray) -> None:
        for key, priority in zip(located(self.sampler, batch), priorities.tolist(), strict=True):
            self.mass[key] = (priority + 1e-10) ** self.run.config.priority_exponent
            self.largest = max(self.largest, self.mass[key])
        self.sampler.update_priorities(batch.leaf, batch.generation, priorities)

    def check(self, batch: Batch) -> None:
        """Probabilities and importance weights by the formula, over everything there is."""
        total = sum(self.mass.values())
        chance = np.array([self.mass[key] for key in located(self.sampler, batch)]) / total
        weight = (len(self.mass) * chance) ** -self.run.config.importance_exponent
        assert self.sampler.size == len(self.mass)
        np.testing.assert_allclose(batch.probability, chance, rtol=1e-9)
        np.testing.assert_allclose(batch.importance_weight, weight / weight.max(), rtol=1e-5)
        assert batch.importance_weight.max() == 1.0


def test_draws_follow_priorities_over_unequal_shards(urls: list[str]) -> None:
    """After updates and evictions, over shards with 1, 3 and 6 parts of the data."""
    run = new_run(urls, capacity=900, priority_exponent=0.6, importance_exponent=0.4)
    sampler = run.sampler(batch_size=64)
    model, rng = Model(run, sampler), np.random.default_rng(0)
    for round_ in range(12):
        for shard, steps in enumerate((10, 30, 60)):
            run.fill(shard, steps, actor=10 * round_ + shard)
        ingest_all(sampler)
        model.insert()
        for _ in range(4):
            batch = sampler.sample()
            model.check(batch)
            run.check(sampler, batch)
            model.update(batch, rng.gamma(0.5, size=64).astype(np.float32).astype(np.float64))
    assert sampler.metrics()["replay/evicted"] == 1200 - sampler.size >= 300
    shards = [run.shard_of[identity] for identity, _ in model.mass]
    assert len(set(np.bincount(shards))) == 3
    keys = list(model.mass)
    counts = dict.fromkeys(keys, 0)
    for _ in range(400):
        for key in located(sampler, sampler.sample()):
            counts[key] += 1
    expected = np.array([model.mass[key] for key in keys])
    observed = np.array([counts[key] for key in keys])
    # Cells of few draws are joined, as the test asks for.
    order = np.argsort(expected)
    bins = np.cumsum(expected[order]) // (expected.sum() / 100)
    observed_bins = np.bincount(bins.astype(int), observed[order])
    expected_bins = np.bincount(bins.astype(int), expected[order])
    assert chisquare(observed_bins, expected_bins / expected_bins.sum() * observed.sum()).pvalue > 1e-3
    by_shard = np.bincount(shards, observed), np.bincount(shards, expected)
    assert chisquare(by_shard[0], by_shard[1] / by_shard[1].sum() * observed.sum()).pvalue > 1e-3


def test_single_draws_are_proportional(urls: list[str]) -> None:
    """Batches of one have a single stratum: plain multinomial draws, item by item."""
    run = new_run(urls, priority_exponent=1.0)
    run.fill(0, 20, actor=0)
    run.fill(2, 40, actor=1)
    sampler = run.sampler(batch_size=1)
    ingest_all(sampler)
    leaves = np.flatnonzero(sampler.table.index.masses())
    generations = sampler.table.slots["generation"][sampler.table.leaf_slots[leaves]]
    priorities = np.random.default_rng(1).gamma(1.0, size=60) + 0.1
    sampler.update_priorities(leaves, generations, priorities)
    counts = np.bincount([int(sampler.sample().leaf[0]) for _ in range(12_000)], minlength=leaves.max() + 1)[
        leaves
    ]
    assert chisquare(counts, priorities / priorities.sum() * 12_000).pvalue > 1e-3


def test_first_masses(urls: list[str]) -> None:
    """The largest so far, or the actor's own; what is no number of use is refused and gets the largest."""
    run = new_run(urls, priority_exponent=0.5, capacity=1000)
    run.fill(0, 30, actor=0, end=0.0)
    sampler = run.sampler()
    ingest_all(sampler)
    assert set(sampler.table.index.masses()) == {0.0, 1.0}
    batch = sampler.sample()
    sampler.update_priorities(batch.leaf, batch.generation, np.full(32, 16.0))
    assert sampler.table.index.max_mass == pytest.approx(4.0)
    given = np.array([0.25, np.nan, -1.0, np.inf, 0.0, 9.0], np.float32)
    (segment,) = run.record(random_stream(99, 6, end=0.0), actor=1)
    run.write([replace(segment, priorities=given)], 1)
    ingest_all(sampler)
    slot = int(sampler.table.in_order()[-1])
    masses = sampler.table.index.mass(sampler.table.leaves(slot))
    expected = [0.5, 4.0, 4.0, 4.0, 1e-5, 3.0]
    np.testing.assert_allclose(masses, expected, rtol=1e-6)
    assert sampler.metrics()["replay/refused_priorities"] == 3


def test_updates_that_cannot_be_used(urls: list[str]) -> None:
    run = new_run(urls, capacity=40, segment_steps=16)
    run.fill(0, 32, actor=0, end=0.0)
    sampler = run.sampler()
    ingest_all(sampler)
    batch = sampler.sample()
    before = sampler.table.index.masses().copy()
    for bad in (np.nan, np.inf, -1.0, -np.inf):
        sampler.update_priorities(batch.leaf[:2], batch.generation[:2], [bad, bad])
    assert (sampler.table.index.masses() == before).all()
    assert sampler.metrics()["replay/refused_priorities"] == 8
    table = sampler.table
    cursor = int(table.slots["first_leaf"][0] + table.slots["num_items"][0])  # a column that starts no item
    leaves = [cursor, -1, table.num_leaves, int(batch.leaf[0])]
    sampler.update_priorities(leaves, [0, 0, 0, int(batch.generation[0]) + 9], [5.0] * 4)
    assert sampler.metrics()["replay/stale_updates"] == 4
    run.fill(1, 32, actor=1, end=0.0)
    ingest_all(sampler)
    assert sampler.metrics()["replay/evicted"] == 32
    before = sampler.table.index.masses().copy()
    sampler.update_priorities(batch.leaf, batch.generation, np.full(32, 50.0))
    assert (sampler.table.index.masses() == before).all()
    assert sampler.metrics()["replay/stale_updates"] == 36


def test_leaves_used_again_have_another_generation(urls: list[str]) -> None:
    """A leaf that came round to a new item does not take an update meant for the old one."""
    run = new_run(urls, capacity=16, segment_steps=16)
    sampler = run.sampler(batch_size=16)
    seen: dict[int, set[int]] = {}
    old: list[Batch] = []
    for actor in range(12):
        run.fill(actor % 3, 16, actor=actor, end=0.0)
        ingest_all(sampler)
        assert sampler.size == 16
        before = sampler.table.index.masses().copy()
        for batch in old:
            sampler.update_priorities(batch.leaf, batch.generation, np.full(16, 9.0))
        assert (sampler.table.index.masses() == before).all()
        batch = sampler.sample()
        run.check(sampler, batch)
        old.append(batch)
        for leaf, generation in zip(batch.leaf.tolist(), batch.generation.tolist(), strict=True):
            seen.setdefault(leaf, set()).add(generation)
    assert max(map(len, seen.values())) > 1


def test_of_an_item_updated_twice_the_last_counts(urls: list[str]) -> None:
    run = new_run(urls, priority_exponent=1.0)
    run.fill(0, 10, actor=0)
    sampler = run.sampler()
    ingest_all(sampler)
    batch = sampler.sample()
    leaf, generation = np.repeat(batch.leaf[:1], 3), np.repeat(batch.generation[:1], 3)
    sampler.update_priorities(leaf, generation, [9.0, np.nan, 2.0])
    assert sampler.table.index.mass(leaf[:1])[0] == 2.0 + 1e-10


def test_uniform(urls: list[str]) -> None:
    run = new_run(urls, prioritized=False)
    (segment,) = run.record(random_stream(5, 12, end=0.0), actor=0)
    run.write([replace(segment, priorities=np.arange(12, dtype=np.float32))], 0)
    run.fill(1, 20, actor=1)
    sampler = run.sampler()
    ingest_all(sampler)
    batch = sampler.sample()
    sampler.update_priorities(batch.leaf, batch.generation, np.full(32, 50.0))
    batch = sampler.sample()
    assert len(np.unique(batch.leaf)) == 32  # 32 items, 32 strata: each of them once
    assert (batch.probability == 1 / 32).all()
    assert (batch.importance_weight == 1.0).all()
    run.check(sampler, batch)


def test_a_copy_on_another_shard_counts_once(urls: list[str]) -> None:
    run = new_run(urls)
    segments = run.fill(0, 50, actor=0)
    sampler = run.sampler()
    ingest_all(sampler)
    run.write(segments, 1)
    run.write(segments[:1], 0)
    ingest_all(sampler)
    assert sampler.inserted == sampler.size == 50
    assert sampler.metrics()["replay/duplicates"] == len(segments) + 1
    batch = sampler.sample()
    run.check(sampler, batch)


def test_a_segment_larger_than_the_capacity_is_rejected(urls: list[str]) -> None:
    run = new_run(urls, capacity=8, segment_steps=16)
    run.fill(0, 16, actor=0, end=0.0)
    sampler = run.sampler()
    ingest_all(sampler)
    assert sampler.size == 0
    assert sampler.metrics()["replay/rejected"] == 1


def test_writers_wait_for_the_sampler(urls: list[str]) -> None:
    """Real writer, real allowance: inserts stop at the limiter's bound until samples are drawn."""
    run = new_run(urls, min_size=64, segment_steps=16, error_buffer=0.0)
    sampler = run.sampler(batch_size=8, samples_per_insert=2.0, total_env_steps=400)
    segments = run.record(random_stream(3, 400, end=0.0), actor=0)
    stop = threading.Event()
    writer = Writer(run.shards_again(), run=run.name, signature=run.signature, should_stop=stop.is_set)
    thread = threading.Thread(target=lambda: [writer.write(segment) for segment in segments], daemon=True)
    thread.start()
    try:
        bound = sampler.limiter.max_inserts(sampler.sampled)
        assert bound == 64 + (8 + 2 * 2 * 16) // 2
        until(lambda: ingest_all(sampler) == 0 and sampler.inserted >= bound - 16, "inserts up to the bound")
        assert bound - 16 <= sampler.inserted <= bound + 15
        until(lambda: use_up(sampler) == 400, "the run's env steps")
    finally:
        stop.set()
        thread.join(patient(10))
    use_up(sampler)
    assert sampler.sampled >= 2 * (sampler.inserted - 64), "all that the inserts earned is used up"
    assert sampler.limiter.max_inserts(sampler.sampled) == 400
    ratio = sampler.metrics()["replay/samples_per_insert"]
    assert ratio == sampler.sampled / (400 - 64)
    assert abs(sampler.sampled - 2 * (400 - 64)) <= 8 + 2 * 2 * 16


def use_up(sampler: Sampler) -> int:
    sampler.ingest()
    while sampler.can_sample():
        sampler.sample()
    return sampler.inserted


def test_allowance_of_dead_writers_is_taken_back(urls: list[str]) -> None:
    run = new_run(urls, min_size=64, error_buffer=0.0)
    sampler = run.sampler(batch_size=8, samples_per_insert=2.0)
    reserve(run.shards[0], SegmentIdentity(3, 1, 0), 16)
    sampler.refresh_allowance()
    assert len(run.shards[0].tickets().outstanding) == 1
    sampler.refresh_allowance(dead={(3, 1)})
    assert run.shards[0].tickets().outstanding == ()


def test_metric_names(urls: list[str]) -> None:
    run = new_run(urls, capacity=64)
    run.fill(0, 40, actor=0)
    sampler = run.sampler()
    ingest_all(sampler)
    sampler.sample()
    values = sampler.metrics()
    names = (
        "samples_per_insert size fill bytes segments inserted sampled evicted parked parked_shards lost "
        "unread duplicates rejected missing stale_updates refused_priorities frame_store_bytes "
        "frame_store_misses rejected_corrupt rejected_stray rejected_version rejected_run rejected_signature "
        "rejected_indexed unearned refill"
    )
    assert set(values) == {f"replay/{name}" for name in names.split()}
    assert values["replay/size"] == values["replay/inserted"] == 40.0
    assert values["replay/fill"] == 40 / 64
    assert values["replay/sampled"] == 32.0
    assert values["replay/segments"] == len(run.segments)
    assert values["replay/frame_store_bytes"] == sum(s.frames.nbytes for s in run.segments.values())
    assert all(type(value) is float for value in values.values())
