"""All errors that replay raises.

ReplayError
  SegmentError            bytes that are not a segment of ours
    CorruptSegment        checksum, size or structure is wrong
    StrayEntry            a log entry that is not ours, or not of the segment that it names
    ForeignSegment        another format version, run or signature
  ShardError              a shard cannot do what it was asked
    ShardUnavailable      it cannot be reached, after bounded retries
    ShardFull             it refuses writes: out of memory or disk
    ForeignRun            it holds the run of another folder
  SignatureMismatch       stack or n_step raised, or another frame shape, on existing data
  ServerError             an embedded server cannot be found, started or locked
    ServersStopped        embedded servers were told to stop before they had loaded their data
  WriterStopped           the writer was told to stop while it waited
  StaleOwner              another sampler has taken the shards over
  NotEnoughData           the limiter does not allow the batch yet
"""

from typing import Literal

from apexpert.errors import ApexpertError


class ReplayError(ApexpertError):
    """Root of every error that replay raises."""


class SegmentError(ReplayError):
    """Bytes that are not a segment of ours; `kind` names the counter that counts them."""

    kind: str


class CorruptSegment(SegmentError):
    """Checksum, size or structure of a segment is wrong."""

    kind = "corrupt"


class StrayEntry(SegmentError):
    """A log entry that is not ours, or that contradicts the segment it names."""

    kind = "stray"


class ForeignSegment(SegmentError):
    """An intact segment that is not for this reader; `kind` says what differs: version, run or signature."""

    def __init__(self, kind: Literal["version", "run", "signature"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ShardError(ReplayError):
    """A shard cannot do what it was asked."""


class ShardUnavailable(ShardError):
    """A shard cannot be reached, after bounded retries."""


class ShardFull(ShardError):
    """A shard refuses writes because its memory or disk is full."""


class ForeignRun(ShardError):
    """A shard holds a run of this name that belongs to another folder."""

    def __init__(self, message: str, shard: object) -> None:
        super().__init__(message)
        self.shard = shard


class SignatureMismatch(ReplayError):
    """Stored data cannot serve this configuration: stack or n_step raised, or another frame shape."""


class ServerError(ReplayError):
    """An embedded server cannot be found, started or locked."""


class ServersStopped(ServerError):
    """Embedded servers were told to stop before they had loaded their data."""


class WriterStopped(ReplayError):
    """The writer was told to stop while it waited for allowance or for a shard."""


class NotEnoughData(ReplayError):
    """The limiter does not allow the requested batch yet."""


class StaleOwner(ReplayError):
    """Another sampler has taken the shards over: this one may neither evict nor allow any more."""
