"""The limiter's algebra, alone and in a simulation of writers, shards and owner."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.owner.limiter import Limiter, plan_allowance, stale_tickets
from replay.shards.records import Ticket, TicketBook
from replay.types import SegmentIdentity
from tests.helpers.replay.limiting import SEGMENT, limiter


class TestAlgebra:
    def test_by_hand(self) -> None:
        # Middle 100 * 8 = 800; inserts up to (0 + 800 + 200) / 8 = 125.
        assert limiter().max_inserts(0) == 125
        assert limiter().max_inserts(32) == 129
        assert limiter(total_env_steps=127).max_inserts(32) == 127
        assert not limiter().can_sample(99, 0)
        assert limiter().can_sample(100, 0)
        # 100 * 8 - samples - 32 >= 800 - 200: the last batch begins at 168 samples.
        assert limiter().can_sample(100, 168)
        assert not limiter().can_sample(100, 169)

    def test_too_small_a_buffer_names_the_flag(self) -> None:
        with pytest.raises(ValueError, match=r"--replay\.error-buffer 19 must be at least 20"):
            limiter(error_buffer=19)

    @given(
        min_size=st.integers(1, 500),
        batch_size=st.integers(1, 64),
        update_period=st.integers(1, 64),
        slack=st.floats(0, 300),
        samples=st.integers(0, 5000),
        inserts=st.integers(0, 5000),
    )
    def test_one_side_can_always_move(
        self, min_size: int, batch_size: int, update_period: int, slack: float, samples: int, inserts: int
    ) -> None:
        ratio = batch_size / update_period
        one = limiter(min_size, ratio, batch_size, (batch_size + ratio) / 2 + slack)
        assert one.can_sample(inserts, samples) or inserts < one.max_inserts(samples)


class TestRefill:
    """By hand, for 8 samples an insert, a warm-up of 100 and a buffer of 200 samples."""

    def test_lost_items_come_first_and_earn_nothing(self) -> None:
        one = limiter()
        # 1,000 inserted, the exact 7,200 drawn, 30 of 100 left: 70 more, then as before.
        assert one.refill(70, 1_000, 7_200, 0) == 70
        assert one.refill_left(1_000) == 70
        assert not one.can_sample(1_069, 7_200)
        assert one.can_sample(1_070, 7_200)
        assert one.refill_left(1_070) == 0
        # As at 1,000 without the loss, shifted by the 70.
        assert one.max_inserts(7_200) == 1_025 + 70
        assert one.can_sample(1_070, 7_200 + 168)
        assert not one.can_sample(1_070, 7_200 + 169)

    def test_a_resume_in_the_middle_of_it_takes_no_more(self) -> None:
        assert limiter().refill(40, 1_030, 7_200, 70) == 70
        one = limiter()
        assert one.refill(0, 1_200, 8_240, 70) == 70
        assert one.can_sample(1_200, 8_240)
        assert one.max_inserts(8_240) == 1_225

    def test_the_runs_end_is_the_end_of_it(self) -> None:
        one = limiter(total_env_steps=1_050)
        one.refill(100, 1_000, 7_200, 0)
        assert one.refill_left(1_000) == 50
        assert one.max_inserts(7_200) == 1_050


class TestPlan:
    def book(self, reserved: int, allowed: int, *tickets: Ticket, pending: int = 0) -> TicketBook:
        return TicketBook(reserved, allowed, tickets, pending)

    def ticket(self, actor: int, items: int, end: int | None) -> Ticket:
        return Ticket(SegmentIdentity(actor, 0, 0), items, 0, end)

    def test_waiting_tickets_come_first_across_the_holes_of_the_dead(self) -> None:
        # (0, 8] is a hole: its owner died. (8, 16] and (16, 24] wait; one of them fits.
        book = self.book(24, 0, self.ticket(1, 8, 16), self.ticket(2, 8, 24))
        assert plan_allowance([book], 5, largest=8) == [16]
        assert plan_allowance([book], 9, largest=8) == [24]
        assert plan_allowance([book], 0, largest=8) == [0]

    def test_covered_pending_and_unused_count(self) -> None:
        book = self.book(24, 10, self.ticket(1, 8, 16), self.ticket(2, 8, 24), pending=20)
        assert plan_allowance([book], 28, largest=8) == [10]
        assert plan_allowance([book], 29, largest=8) == [24]

    def test_rest_is_split_less_what_may_be_overdrawn(self) -> None:
        books = [self.book(100, 90), self.book(0, 0)]
        assert plan_allowance(books, 40, largest=8) == [113, 13]
        assert plan_allowance(books, 40, largest=1) == [120, 20]
        assert plan_allowance(books, 40, largest=0) == [90, 0]
        assert plan_allowance(books, 14, largest=8) == [90, 0]

    def test_unused_is_taken_back_before_it_is_given_to_others(self) -> None:
        waiting = self.book(8, 0, self.ticket(1, 8, 8))
        assert plan_allowance([waiting, self.book(50, 90)], 40, largest=8) == [0, 50]
        assert plan_allowance([waiting, self.book(50, 50)], 40, largest=8) == [8 + 9, 50 + 9]

    def test_turns_change(self) -> None:
        books = [self.book(8, 0, self.ticket(1, 8, 8)), self.book(8, 0, self.ticket(2, 8, 8))]
        assert plan_allowance(books, 1, largest=8, first=0) == [8, 0]
        assert plan_allowance(books, 1, largest=8, first=1) == [0, 8]

    def test_stale_are_the_dead_and_the_left_behind(self) -> None:
        old, new, dead = SegmentIdentity(1, 0, 4), SegmentIdentity(1, 0, 5), SegmentIdentity(2, 3, 0)
        again = SegmentIdentity(2, 4, 0)
        books = [
            self.book(0, 0, Ticket(old, 1, 7, 1), Ticket(dead, 1, 0, 2), Ticket(again, 1, 0, 3)),
            self.book(0, 0, Ticket(new, 1, 0, 1), Ticket(again, 1, 1, 2)),
        ]
        assert stale_tickets(books, {(2, 3)}) == [{old, dead, again}, set()]

    def test_an_older_incarnation_is_dead(self) -> None:
        old, new = SegmentIdentity(1, 0, 9), SegmentIdentity(1, 1, 0)
        other = SegmentIdentity(2, 0, 0)
        books = [
            self.book(0, 0, Ticket(old, 1, 2, 1), Ticket(other, 1, 0, 2)),
            self.book(0, 0, Ticket(new, 1, 0, 1)),
        ]
        assert stale_tickets(books, set()) == [{old}, set()]


@dataclass
class SimShard:
    reserved: int = 0
    allowed: int = 0
    book: dict[SegmentIdentity, Ticket] = field(default_factory=dict)
    log: list[SegmentIdentity] = field(default_factory=list)
    position: int = 0

    def snapshot(self) -> TicketBook:
        pending = (len(self.log) - self.position) * SEGMENT
        return TicketBook(self.reserved, self.allowed, tuple(self.book.values()), pending)


@dataclass
class SimWriter:
    identity: SegmentIdentity
    shard: int
    phase: str = "idle"
    end: int = 0
    attempt: int = 0
    written: int = 0


class World:
    """Writers, shards and owner one small step at a time; all that is real is the limiter's arithmetic."""

    def __init__(self, writers: int, shards: int, rules: Limiter) -> None:
        self.rules = rules
        self.shards = [SimShard() for _ in range(shards)]
        self.writers = [SimWriter(SegmentIdentity(a, 0, 0), a % shards) for a in range(writers)]
        self.dead: set[tuple[int, int]] = set()
        self.seen: set[SegmentIdentity] = set()
        self.committed: set[SegmentIdentity] = set()
        self.inserted = self.samples = self.turn = self.largest = 0
        self.planned: list[int] | None = None

    def write(self, writer: SimWriter) -> None:
        """The writer's next step: reserve, note the ticket's end, see it covered, commit."""
        shard = self.shards[writer.shard]
        if writer.phase == "idle":
            shard.reserved += SEGMENT
            writer.end, writer.phase = shard.reserved, "reserved"
            shard.book[writer.identity] = Ticket(writer.identity, SEGMENT, writer.attempt, None)
        elif writer.phase == "reserved":
            shard.book[writer.identity] = Ticket(writer.identity, SEGMENT, writer.attempt, writer.end)
            writer.phase = "waiting"
        elif writer.phase == "waiting":
            writer.phase = "covered" if shard.allowed > writer.end - SEGMENT else "waiting"
        else:
            self.commit(writer)

    def commit(self, writer: SimWriter) -> None:
        shard = self.shards[writer.shard]
        shard.book.pop(writer.identity, None)
        shard.log.append(writer.identity)
        self.committed.add(writer.identity)
        writer.identity = writer.identity._replace(seq=writer.identity.seq + 1)
        writer.shard, writer.phase = (writer.shard + 1) % len(self.shards), "idle"
        writer.attempt = 0
        writer.written += 1

    def die(self, writer: SimWriter) -> None:
        self.dead.add(writer.identity[:2])
        writer.identity = SegmentIdentity(writer.identity.actor, writer.identity.incarnation + 1, 0)
        writer.phase, writer.attempt = "idle", 0

    def change_shard(self, writer: SimWriter, committed: bool) -> None:
        """The shard is lost to the writer, perhaps after a commit that was not acknowledged."""
        if committed and writer.phase == "covered":
            shard = self.shards[writer.shard]
            shard.book.pop(writer.identity, None)
            shard.log.append(writer.identity)
            self.committed.add(writer.identity)
        writer.shard, writer.phase = (writer.shard + 1) % len(self.shards), "idle"
        writer.attempt += 1

    def ingest(self, count: int) -> None:
        for shard in self.shards:
            for identity in shard.log[shard.position : shard.position + count]:
                self.inserted += SEGMENT if identity not in self.seen else 0
                self.seen.add(identity)
            shard.position = min(len(shard.log), shard.position + count)

    def plan(self) -> None:
        books = [shard.snapshot() for shard in self.shards]
        stale = stale_tickets(books, self.dead)
        for i, names in enumerate(stale):
            books[i] = books[i]._replace(
                outstanding=tuple(t for t in books[i].outstanding if t.identity not in names)
            )
            for name in names:
                self.shards[i].book.pop(name, None)
        self.largest = max([self.largest, *(t.items for book in books for t in book.outstanding)])
        budget = self.rules.max_inserts(self.samples) - self.inserted
        self.planned = plan_allowance(books, budget, largest=self.largest, first=self.turn)
        self.turn += 1

    def apply(self) -> None:
        for shard, end in zip(self.shards, self.planned or [], strict=False):
            shard.allowed = end
        self.planned = None

    def sample(self) -> None:
        if self.rules.can_sample(self.inserted, self.samples):
            self.samples += 32

    def overdraft(self) -> int:
        return len(self.committed) * SEGMENT - self.rules.max_inserts(self.samples)


ACTIONS = ["write"] * 12 + [
    "die",
    "change",
    "change_committed",
    "ingest",
    "plan",
    "apply",
    "refresh",
    "sample",
]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    writers=st.integers(1, 6),
    shards=st.integers(1, 3),
    update_period=st.sampled_from([1, 4, 16, 64]),
    slack=st.sampled_from([0.0, 20.0, 300.0]),
    steps=st.integers(0, 600),
    bursts=st.booleans(),
)
def test_simulated_inserts_stay_in_range_and_never_stop(
    seed: int, writers: int, shards: int, update_period: int, slack: float, steps: int, bursts: bool
) -> None:
    ratio = 32 / update_period
    world = World(writers, shards, limiter(50, ratio, 32, (32 + ratio) / 2 + slack))
    draw = random.Random(seed)
    for _ in range(steps):
        action, writer = draw.choice(ACTIONS), draw.choice(world.writers)
        if action == "write":
            for _ in range(draw.randint(1, 12) if bursts else 1):
                world.write(writer)
        elif action == "die":
            world.die(writer)
        elif action.startswith("change"):
            world.change_shard(writer, committed=action == "change_committed")
        elif action == "ingest":
            world.ingest(draw.randint(1, 5))
        elif action == "refresh":
            world.plan()
            world.apply()
        else:
            getattr(world, action)()
        assert world.overdraft() < writers * SEGMENT
    before = [writer.written for writer in world.writers]
    for _ in range(400):  # everybody gets a turn, and nobody stops for good
        for writer in world.writers:
            world.write(writer)
        world.ingest(100)
        world.sample()
        world.plan()
        world.apply()
        assert world.overdraft() < writers * SEGMENT
    assert all(writer.written > count for writer, count in zip(world.writers, before, strict=True))
