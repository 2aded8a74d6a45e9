"""Archive a run's segments and logs: export them from its shards to a folder, and import them into shards.

The folder holds manifest.json (format, run, signatures, counts, size and SHA-256 of each file) and,
for each shard, `shard-<i>.jsonl`, its log in order with one entry per line, and
`shard-<i>.segments`, the entries' segments one after the other as they were stored. Log ids are
kept, so that a checkpoint's cursors and segments fit the copy: a sampler restored on it continues
bit for bit.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apexpert import durable
from replay.errors import CorruptSegment, ReplayError, SegmentError
from replay.segments.codec import decode, decode_with_header, encode
from replay.shards.records import LogEntry
from replay.tools.stored_shard import StoredShard
from replay.types import SegmentIdentity, Signature

FORMAT = 1
MANIFEST = "manifest.json"
PAGE = 128
"""Segments handled at once."""
SENT_AT_ONCE = 16
"""Segments per transaction when they are put into a shard."""

Progress = Callable[[int, int], object]


class ArchiveError(ReplayError):
    """A folder that is not a complete archive, or does not fit its target; the message is one line."""


@dataclass
class Archived:
    """Counts of what went into or came out of an archive."""

    segments: int = 0
    items: int = 0
    num_bytes: int = 0
    gone: int = 0
    """Log entries without a segment: evicted, in a live run perhaps at this very moment."""
    refused: int = 0
    """Duplicates, entries that are not ours, and damaged or foreign segments: left out."""


def export_run(
    shards: Sequence[StoredShard],
    folder: Path,
    *,
    run: str,
    progress: Progress = lambda done, total: None,
) -> Archived:
    """Write an archive completely or not at all; every segment is decoded and checked on its way.

    Raises ArchiveError if `folder` exists and is not empty, or if nothing is stored; ShardError;
    OSError.
    """
    signatures = [shard.signature() for shard in shards]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArchiveError(f"{folder} is there already; name a folder that is new or empty")
    if all(signature is None for signature in signatures):
        raise ArchiveError(f"the shards hold nothing of run {run}")
    # Written under another name and renamed at the end, so that a failed export leaves no partial archive.
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    # A killed process of the same number may have left this folder.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        archived, files = _write_files(shards, temporary, run, progress)
        manifest = {
            "format": FORMAT,
            "run": run,
            "signatures": [signature and asdict(signature) for signature in signatures],
            "counts": asdict(archived),
            "files": files,
        }
        durable.write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        durable.sync(temporary)
        temporary.replace(folder)
        durable.sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return archived


def _write_files(
    shards: Sequence[StoredShard], folder: Path, run: str, progress: Progress
) -> tuple[Archived, dict[str, Any]]:
    # Over all shards, because a writer's retry may have left a copy on another one.
    archived, seen = Archived(), set[SegmentIdentity]()
    files: dict[str, Any] = {}
    total, done = sum(int(shard.administration.info()["log_length"]) for shard in shards), 0
    for place, shard in enumerate(shards):
        paths = _paths(folder, place)
        with ExitStack() as stack:
            log, data = (stack.enter_context(path.open("wb")) for path in paths)
            for entries in shard.entries(PAGE):
                for entry, encoded in _whole(shard, entries, seen, run, archived):
                    log.write(json.dumps([entry.log_id, str(entry.identity), *entry[2:]]).encode() + b"\n")
                    data.write(encoded)
                    archived.segments += 1
                    archived.items += entry.num_items
                    archived.num_bytes += len(encoded)
                done += len(entries)
                # A live run's log grows, so there may be more entries than were counted.
                progress(done, max(done, total))
        for path in paths:
            durable.sync(path)
            files[path.name] = durable.fingerprint(path)
    return archived, files


def _whole(
    shard: StoredShard,
    entries: Sequence[LogEntry],
    seen: set[SegmentIdentity],
    run: str,
    archived: Archived,
) -> Iterator[tuple[LogEntry, bytes]]:
    """Yield the entries with their segments' bytes, each identity once; count what is left out."""
    ours = [e for e in entries if e.identity is not None and e.identity not in seen]
    archived.refused += len(entries) - len(ours)
    stored = shard.fetch([entry.identity for entry in ours if entry.identity is not None])
    for entry, encoded in zip(ours, stored, strict=True):
        if encoded is None:
            archived.gone += 1
            continue
        try:
            _check(entry, encoded, run)
        except SegmentError:
            archived.refused += 1
            continue
        assert entry.identity is not None
        if entry.identity in seen:  # named twice on this page
            archived.refused += 1
            continue
        seen.add(entry.identity)
        yield entry, encoded


def _check(entry: LogEntry, encoded: bytes, run: str) -> None:
    segment = decode(encoded, run=run, signature=None)
    if not entry.is_of(segment, len(encoded)):
        raise CorruptSegment(f"log entry {entry.log_id} is not of the segment that it names")


class Archive:
    """An archive on disk whose manifest is readable; `check_files` compares its files with the manifest."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest; raises ArchiveError for a folder without a manifest of this format."""
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            self.format = int(manifest["format"])
            # Before the rest is read, which a later format may have in another form.
            if self.format != FORMAT:
                raise ArchiveError(f"{folder} is of format {self.format}; this version reads {FORMAT}")
            self.run = str(manifest["run"])
            self.files: dict[str, dict[str, Any]] = dict(manifest["files"])
            self.signatures = [_signature(document) for document in manifest["signatures"]]
            self.counts = Archived(**manifest["counts"])
        except FileNotFoundError:
            raise ArchiveError(f"{folder} is not an exported replay: it has no {MANIFEST}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"{folder / MANIFEST} cannot be read: {type(error).__name__}") from None

    @property
    def num_shards(self) -> int:
        """Number of shards of the run that was exported."""
        return len(self.signatures)

    def check_files(self) -> None:
        """Raise ArchiveError if a file is missing, or not as it was written (size or SHA-256)."""
        expected = {path.name for i in range(self.num_shards) for path in _paths(self.folder, i)}
        if set(self.files) != expected:
            raise ArchiveError(f"{self.folder / MANIFEST} names other files than an archive has")
        for name, fingerprint in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise ArchiveError(f"{path} is missing")
            if durable.fingerprint(path) != fingerprint:
                raise ArchiveError(f"{path} is not as it was written (size or SHA-256 differs)")

    def segments(self, shard_index: int) -> Iterator[list[tuple[LogEntry, bytes]]]:
        """Yield one shard's log entries with their segments, in order, in pages; SegmentError for damage."""
        log_path, data_path = _paths(self.folder, shard_index)
        with log_path.open("rb") as log, data_path.open("rb") as data:
            page = []
            for line in log:
                entry = _entry(line)
                encoded = data.read(entry.num_bytes)
                _check(entry, encoded, self.run)
                page.append((entry, encoded))
                if len(page) == PAGE:
                    yield page
                    page = []
            if page:
                yield page

    def incarnations(self) -> dict[int, int]:
        """Return, for each actor slot, the number that its next incarnation may have."""
        following: dict[int, int] = {}
        for shard_index in range(self.num_shards):
            for line in _paths(self.folder, shard_index)[0].read_bytes().splitlines():
                identity = _entry(line).identity
                assert identity is not None
                # A reused incarnation would repeat stored identities, which count as copies.
                following[identity.actor] = max(following.get(identity.actor, 0), identity.incarnation + 1)
        return following


def import_run(
    archive: Archive,
    shards: Sequence[StoredShard],
    *,
    run: str,
    progress: Progress = lambda done, total: None,
) -> Archived:
    """Put an archive into the empty shards of `run`, in the logs' order and under the same log ids.

    Under another name than the archive's, the fronts of the segments are rewritten, their contents
    unchanged. Raises ArchiveError if the archive does not fit or is not complete (before anything
    is written), ShardFull if there is no room: what was written until then stays, and `delete`
    removes it.
    """
    if len(shards) != archive.num_shards:
        raise ArchiveError(f"{archive.folder} is of {archive.num_shards} shards, here are {len(shards)}")
    for shard in shards:
        keys = shard.keys()
        if keys.segments or keys.others:
            raise ArchiveError(f"{shard!r} holds data of run {run} already; --delete removes it")
    archive.check_files()
    imported = Archived()
    for place, shard in enumerate(shards):
        signature = archive.signatures[place]
        if signature is not None:
            shard.put_signature(signature)
        for page in archive.segments(place):
            _put(shard, [_renamed(entry, data, archive.run, run) for entry, data in page])
            imported.segments += len(page)
            imported.items += sum(entry.num_items for entry, _ in page)
            imported.num_bytes += sum(len(data) for _, data in page)
            progress(imported.segments, archive.counts.segments)
    return imported


def _put(shard: StoredShard, page: Sequence[tuple[LogEntry, bytes]]) -> None:
    for start in range(0, len(page), SENT_AT_ONCE):
        part = page[start : start + SENT_AT_ONCE]
        shard.put([entry for entry, _ in part], [data for _, data in part])


def _renamed(entry: LogEntry, data: bytes, old: str, new: str) -> tuple[LogEntry, bytes]:
    """Return the segment as one of run `new`, unchanged if the name is the same."""
    if old == new:
        return entry, data
    header, segment = decode_with_header(data, run=old, signature=None)
    renamed = encode(segment, new, header.signature)
    return entry._replace(num_bytes=len(renamed)), renamed


def _paths(folder: Path, shard_index: int) -> tuple[Path, Path]:
    return folder / f"shard-{shard_index}.jsonl", folder / f"shard-{shard_index}.segments"


def _entry(line: bytes) -> LogEntry:
    try:
        log_id, identity, *counts = json.loads(line)
        return LogEntry(str(log_id), SegmentIdentity.parse(str(identity)), *(int(count) for count in counts))
    except (ValueError, TypeError):
        raise CorruptSegment(f"a line of an archived log is not a log entry: {line[:80]!r}") from None


def _signature(document: dict[str, Any] | None) -> Signature | None:
    return None if document is None else Signature.of_document(document)
