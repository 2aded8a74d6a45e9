"""A separate process that writes segments at a given pace, as remote actors would."""

import itertools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.synchronize import Event

from replay.errors import WriterStopped
from replay.segments.codec import decode
from replay.shards.shard import Shard
from replay.types import SegmentIdentity, Signature
from replay.writer import Writer

# No recorded game has this number, so no identity is one that `Servers.fill` has written.
ACTOR = 1000
# The writer sleeps while it is ahead: spinning would take a core from what is measured.
NICE_SECONDS = 0.002


@contextmanager
def paced_writer(
    urls: Sequence[str], run: str, signature: Signature, segments: Sequence[bytes], steps_per_s: float
) -> Iterator[None]:
    """Write encoded `segments` in a loop through a production writer, `steps_per_s`, until the exit."""
    context = multiprocessing.get_context("spawn")  # A fork would share the caller's connections.
    ready, stop = context.Event(), context.Event()
    arguments = (list(urls), run, signature, list(segments), steps_per_s, ready, stop)
    process = context.Process(target=_write, args=arguments, daemon=True)
    process.start()
    try:
        while not ready.wait(0.1):
            if not process.is_alive():
                raise RuntimeError("the writing process ended before it began")
        yield
    finally:
        stop.set()
        process.join()


def _write(
    urls: list[str],
    run: str,
    signature: Signature,
    encoded: list[bytes],
    steps_per_s: float,
    ready: Event,
    stop: Event,
) -> None:
    shards = [Shard(url, run=run, index=index) for index, url in enumerate(urls)]
    writer = Writer(shards, run=run, signature=signature, should_stop=stop.is_set)
    segments = [decode(data, run=run, signature=signature) for data in encoded]
    ready.set()
    start = time.monotonic()
    for number in itertools.count():
        if number == 1:  # The first write waits until the sampler polls, which is no part of the pace.
            start = time.monotonic()
        while writer.counters.items > steps_per_s * (time.monotonic() - start):
            if stop.wait(NICE_SECONDS):
                return
        segment = replace(segments[number % len(segments)], identity=SegmentIdentity(ACTOR, 0, number))
        # A sampler that is no longer polled allows no write: only the stop ends one then.
        with suppress(WriterStopped):
            writer.write(segment)
        if stop.is_set():
            return
