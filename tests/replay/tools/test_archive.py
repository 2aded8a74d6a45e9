"""A run goes through a folder and comes out the same, bit for bit; what is not whole does not."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from replay.segments.codec import decode
from replay.tools.archive import Archive, ArchiveError, export_run, import_run
from replay.tools.stored_shard import StoredShard
from replay.tools.verification import verify
from replay.writer import Writer
from tests.helpers.replay.samplers import Run, ingest_all, new_run, same_batches
from tests.helpers.replay.stored_runs import everything, filled, stored_shards
from tests.helpers.replay.streams import FRAME_SHAPE, random_stream
from tests.helpers.shards.commands import unlink
from tests.helpers.shards.servers import fresh_run, server_programs, shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()[:2]


@pytest.fixture(scope="module")
def other_urls() -> list[str]:
    """Servers of another program, so that a run can be there under the same name."""
    if "redis62" not in server_programs():
        pytest.skip("the wheel with Redis 6.2 is for Python before 3.13")
    return shared_urls("redis62")[:2]


def shards_at(urls: Sequence[str], run: str) -> list[StoredShard]:
    return [StoredShard(url, run=run, index=i, retry_seconds=5.0) for i, url in enumerate(urls)]


def keys_of(urls: Sequence[str], run: str) -> dict[tuple[int, bytes], object]:
    return {key: value for key, value in everything(urls).items() if f"{{{run}:".encode() in key[1]}


def trained(run: Run) -> Any:
    """A sampler's state as a checkpoint holds it."""
    sampler = run.sampler()
    ingest_all(sampler)
    for _ in range(5):
        batch = sampler.sample()
        sampler.update_priorities(batch.leaf, batch.generation, np.abs(np.sin(batch.leaf * 0.37)) * 3)
    return sampler


def test_a_run_comes_back_bit_for_bit(urls: list[str], other_urls: list[str], tmp_path: Path) -> None:
    run = filled(urls)
    before = keys_of(urls, run.name)
    exported = export_run(stored_shards(run), tmp_path / "out", run=run.name)
    assert exported.segments == len(run.segments)
    assert (exported.gone, exported.refused) == (0, 0)
    target = shards_at(other_urls, run.name)
    imported = import_run(Archive(tmp_path / "out"), target, run=run.name)
    assert (imported.segments, imported.items) == (exported.segments, exported.items)
    assert keys_of(urls, run.name) == keys_of(other_urls, run.name) == before
    assert not verify(target, run=run.name).wrong

    again = export_run(target, tmp_path / "again", run=run.name)
    assert again == exported
    for name in ("shard-0.jsonl", "shard-0.segments", "shard-1.jsonl", "shard-1.segments", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_sampler_goes_on_exactly_under_another_name(urls: list[str], tmp_path: Path) -> None:
    run = filled(urls)
    sampler = trained(run)
    state = json.loads(json.dumps(sampler.state()[0])), sampler.state()[1]
    export_run(stored_shards(run), tmp_path / "out", run=run.name)
    copy = Run(run.urls, run.signature, run.config, name=fresh_run(), items=run.items, segments=run.segments)
    import_run(Archive(tmp_path / "out"), stored_shards(copy), run=copy.name)
    assert not verify(stored_shards(copy), run=copy.name).wrong
    for place, shard in enumerate(stored_shards(copy)):
        for (entry,) in shard.entries(page=1):
            original, moved = run.shards[place].fetch([entry.identity])[0], shard.fetch([entry.identity])[0]
            assert original is not None
            assert moved is not None
            same = decode(original, run=run.name, signature=None)
            renamed = decode(moved, run=copy.name, signature=None)
            for name, value in vars(same).items():
                assert np.array_equal(value, getattr(renamed, name))
    restored = copy.sampler(seed=99)
    report = restored.restore(*state)
    assert report.exact
    assert ingest_all(restored) == 0
    for _ in range(5):
        one, other = sampler.sample(), restored.sample()
        assert same_batches(one, other)
        copy.check(restored, other)


def test_writers_accounts_come_along(urls: list[str], tmp_path: Path) -> None:
    """What a writer had written in all by each entry: by it a sampler of a copy counts what it never saw."""
    run = new_run(urls)
    writer = Writer(run.shards, run=run.name, signature=run.signature)
    for segment in run.record(random_stream(0, 90, frame_shape=FRAME_SHAPE)):
        writer.write(segment, wait=False)
    writer.close()
    export_run(stored_shards(run), tmp_path / "out", run=run.name)
    copy = new_run(urls)
    import_run(Archive(tmp_path / "out"), stored_shards(copy), run=copy.name)
    totals = [
        {e.identity: e.total for shard in stored_shards(one) for page in shard.entries() for e in page}
        for one in (run, copy)
    ]
    assert totals[0] == totals[1]
    assert max(totals[0].values()) == sum(len(items) for items in run.items.values()) > 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in the segments": (lambda folder: flip(folder / "shard-1.segments"), "SHA-256 differs"),
    "a flipped bit in a log": (lambda folder: flip(folder / "shard-0.jsonl"), "SHA-256 differs"),
    "a file cut short": (
        lambda folder: (folder / "shard-0.segments").write_bytes(b"short"),
        "SHA-256 differs",
    ),
    "a missing file": (lambda folder: (folder / "shard-0.jsonl").unlink(), "is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "is not an exported replay"),
    "half a manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 1'),
        "cannot be read",
    ),
    "another format": (
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"format": 1', '"format": 9')
        ),
        "format 9",
    ),
    "a later format with other fields": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 2, "runs": []}'),
        "is of format 2; this version reads 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_archive_is_refused_before_anything_is_written(
    urls: list[str], tmp_path: Path, name: str
) -> None:
    damage, words = DAMAGE[name]
    run, copy = filled(urls), new_run(urls)
    export_run(stored_shards(run), tmp_path / "out", run=run.name)
    damage(tmp_path / "out")
    with pytest.raises(ArchiveError, match=words):
        import_run(Archive(tmp_path / "out"), stored_shards(copy), run=copy.name)
    assert not keys_of(urls, copy.name)


def test_what_does_not_fit_is_refused(urls: list[str], tmp_path: Path) -> None:
    run, other = filled(urls), filled(urls)
    export_run(stored_shards(run), tmp_path / "out", run=run.name)
    archive = Archive(tmp_path / "out")
    with pytest.raises(ArchiveError, match="holds data of run"):
        import_run(archive, stored_shards(other), run=other.name)
    with pytest.raises(ArchiveError, match="is of 2 shards, here are 1"):
        import_run(archive, stored_shards(new_run(urls))[:1], run="x")
    with pytest.raises(ArchiveError, match="there already"):
        export_run(stored_shards(run), tmp_path / "out", run=run.name)
    with pytest.raises(ArchiveError, match="hold nothing"):
        export_run(stored_shards(new_run(urls)), tmp_path / "none", run="none")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_whole_segments_go_in(urls: list[str], tmp_path: Path) -> None:
    run = filled(urls)
    names = list(run.segments)
    unlink(run.shards[run.shard_of[names[0]]], [names[0]])
    run.write([run.segments[names[1]]], 1 - run.shard_of[names[1]])
    with redis.Redis.from_url(urls[run.shard_of[names[2]]]) as client:
        key = f"apexpert:{{{run.name}:{run.shard_of[names[2]]}}}:seg:{names[2]}"
        client.set(key, client.get(key)[:-1])
    exported = export_run(stored_shards(run), tmp_path / "out", run=run.name)
    assert (exported.segments, exported.gone, exported.refused) == (len(names) - 2, 1, 2)
    assert Archive(tmp_path / "out").incarnations() == {0: 1, 1: 1, 2: 1, 3: 1}
