"""Keep track of which segments of each writer were read, and how many of its items never will be."""

import bisect
from collections.abc import Sequence
from typing import Any

from replay.types import SegmentIdentity


class SeenSequences:
    """A set of integers kept as sorted ranges [start, end), small when they arrive nearly in order."""

    def __init__(self, ranges: Sequence[Sequence[int]] = ()) -> None:
        self._starts = [int(start) for start, _ in ranges]
        self._ends = [int(end) for _, end in ranges]

    def __contains__(self, value: int) -> bool:
        place = bisect.bisect_right(self._starts, value) - 1
        return place >= 0 and value < self._ends[place]

    def add(self, value: int) -> None:
        """Add one integer, merging ranges that meet."""
        if value in self:
            return
        place = bisect.bisect_right(self._starts, value)
        joins_left = place > 0 and self._ends[place - 1] == value
        joins_right = place < len(self._starts) and self._starts[place] == value + 1
        if joins_left and joins_right:
            self._ends[place - 1] = self._ends.pop(place)
            self._starts.pop(place)
        elif joins_left:
            self._ends[place - 1] = value + 1
        elif joins_right:
            self._starts[place] = value
        else:
            self._starts.insert(place, value)
            self._ends.insert(place, value + 1)

    @property
    def ranges(self) -> list[list[int]]:
        """The ranges [start, end), JSON-able."""
        return [[start, end] for start, end in zip(self._starts, self._ends, strict=True)]


class Account:
    """Fate of the segments of one incarnation."""

    def __init__(self, seen: Sequence[Sequence[int]] = (), items: int = 0, total: int = 0) -> None:
        self.seen = SeenSequences(seen)
        """Sequence numbers of the segments that were taken or found lost."""
        self.items = items
        """Items of these segments."""
        self.total = total
        """Items that the writer had written up to the latest of them, by its own count."""


class SegmentLedger:
    """Fate of every segment that a log named, taken or lost, and the number of items that no log ever named.

    A lost segment may still turn up, in a shard that comes back or by a retry of its writer.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[int, int], Account] = {}
        self._lost: dict[SegmentIdentity, tuple[int, bool]] = {}
        self.lost_items = 0
        """Items of the segments that are lost."""
        self.unread_items = 0
        """Items that were not read although later items of the same writer were: they were lost
        before they could be read, or are still to come from another shard."""

    def is_taken(self, identity: SegmentIdentity) -> bool:
        """Whether a segment was taken and, as far as is known, not lost since."""
        account = self._of.get(identity[:2])
        return account is not None and identity.seq in account.seen and identity not in self._lost

    def is_lost(self, identity: SegmentIdentity) -> bool:
        """Whether a segment was named but not taken, or was lost after it was taken."""
        return identity in self._lost

    def take(self, identity: SegmentIdentity, num_items: int, total: int = 0) -> bool:
        """Note that a segment is taken; return True if it was taken before and lost in between.

        `num_items` is the segment's own, under its checksums. `total` (0: not known) comes from the
        log entry alone: no checksum covers it, and `parse_entry` only bounds it.
        """
        items, was_taken = self._lost.pop(identity, (0, False))
        self.lost_items -= items
        self._count(identity, num_items, total, instead_of=items)
        return was_taken

    def lose(self, identity: SegmentIdentity, num_items: int, *, was_taken: bool) -> None:
        """Note that a segment is lost, after it was taken or before it could be.

        Its number of items is then known only from its log entry, until the segment turns up.
        """
        # A log that is read again names the same missing segment once more.
        if identity in self._lost:
            return
        self._lost[identity] = (num_items, was_taken)
        self.lost_items += num_items
        self._count(identity, num_items)

    @property
    def state(self) -> dict[str, Any]:
        """The ledger's state, JSON-able."""
        ledger = {
            f"{actor}.{incarnation}": [account.seen.ranges, account.items, account.total]
            for (actor, incarnation), account in self._of.items()
        }
        return {"writers": ledger, "lost": [[*identity, *what] for identity, what in self._lost.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self._of = {}
        for name, (seen, items, total) in state["writers"].items():
            actor, _, incarnation = name.partition(".")
            self._of[int(actor), int(incarnation)] = Account(seen, int(items), int(total))
        self._lost = {SegmentIdentity.of(*row[:3]): (int(row[3]), bool(row[4])) for row in state["lost"]}
        self.lost_items = sum(items for items, _ in self._lost.values())
        self.unread_items = sum(_unread(account) for account in self._of.values())

    def _count(self, identity: SegmentIdentity, num_items: int, total: int = 0, instead_of: int = 0) -> None:
        """Count a segment once; a lost segment that turns up may have other items than its entry said."""
        account = self._of.setdefault(identity[:2], Account())
        before = _unread(account)
        if identity.seq not in account.seen:
            account.seen.add(identity.seq)
            account.items += num_items
        elif instead_of:
            account.items += num_items - instead_of
        # Shards are read side by side, so the total of an earlier segment may come later.
        account.total = max(account.total, total)
        self.unread_items += _unread(account) - before


def _unread(account: Account) -> int:
    # Lost segments count among the items but bring no total, so the items may exceed it.
    return max(0, account.total - account.items)
