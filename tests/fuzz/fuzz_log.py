"""atheris on the log reader, with a real server: `python -m tests.fuzz.fuzz_log [libFuzzer flags]`.

The fuzzer's bytes become rows and segments of a run of their own; the reader must take what is right, in its
order, and count everything else under its kind.
"""

import logging
import sys

import atheris

import replay.items.priority_index

# Compiled modules, which atheris cannot instrument: so they come first.
import replay.segments.blocks
import replay.segments.columns
import replay.segments.returns  # noqa: F401
from tests.helpers.shards.commands import read_new

with atheris.instrument_imports(include=["replay"]):
    from replay.log.reader import LogReader
    from replay.shards.records import parse_entry
    from tests.helpers.replay.hostile_log import KINDS, HostileLog
    from tests.helpers.shards.servers import SIGNATURE, fresh_run, make_shards, same_segment

NAMES = [b"id", b"n", b"s", b"b", b"t", b"x"]


def write(data: atheris.FuzzedDataProvider, hostile: HostileLog) -> None:
    """Put what the fuzzer's bytes say into the run."""
    while data.remaining_bytes():
        kind = data.PickValueInList(list(KINDS))
        noise = data.ConsumeBytes(data.ConsumeIntInRange(0, 40))
        fields = {
            name: data.ConsumeBytes(data.ConsumeIntInRange(0, 12)) for name in NAMES if data.ConsumeBool()
        }
        ours = not fields or parse_entry(b"1-0", fields).identity is not None
        hostile.put(kind, noise, None if ours else fields)


def one_input(data: bytes) -> None:
    """Run one input."""
    run = fresh_run()
    (shard,) = make_shards(1, run=run)
    hostile = HostileLog(shard, run)
    try:
        provider = atheris.FuzzedDataProvider(data)
        limit = provider.ConsumeIntInRange(1, 20)
        write(provider, hostile)
        check(LogReader([shard], run=run, signature=SIGNATURE), hostile, limit)
    finally:
        hostile.clean_up()
        shard.close()


def check(reader: LogReader, hostile: HostileLog, limit: int) -> None:
    """Read everything and compare it with what was put there."""
    received, before = [], None
    while before != reader.positions:
        before = reader.positions
        received += read_new(reader, limit)
    assert len(received) == len(hostile.good)
    assert all(same_segment(one.segment, put) for one, put in zip(received, hostile.good, strict=True))
    counted = {name: n for name, n in reader.counters.items() if n and name not in ("items", "bytes")}
    assert counted == dict(hostile.expected), (counted, hostile.expected)
    assert (reader.ledger.lost_items, reader.ledger.unread_items) == (hostile.lost, 0)


if __name__ == "__main__":
    logging.disable()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
