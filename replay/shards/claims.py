"""Claim a shard's keys for a run: each run folder notes its id in the shards that it uses.

Runs of the same name in different folders would otherwise take each other's segments for their own.
"""

from collections.abc import Sequence
from contextlib import suppress

from replay.errors import ForeignRun, ShardError, ShardFull, ShardUnavailable
from replay.shards.shard import Shard


def claim(shards: Sequence[Shard], folder_id: str, *, new: bool) -> None:
    """Note in each shard that answers that its run belongs to the folder of this id.

    A full shard cannot take a note, but a note that it already holds counts. Raises ForeignRun if a
    shard belongs to another folder or, for a `new` run, holds anything of that name. After this or
    any other error, the notes made by this call are taken back.
    """
    noted: list[Shard] = []
    try:
        for shard in shards:
            try:
                if _take(shard, folder_id, new=new):
                    noted.append(shard)
            except (ShardUnavailable, ShardFull):
                continue  # the code that starts the run decides whether it can do without this shard
    except BaseException:
        release(noted)
        raise


def _take(shard: Shard, folder_id: str, *, new: bool) -> bool:
    """Return whether this call noted the folder; raise ForeignRun if it must not."""
    held = shard.administration.folder_id()
    if not held and new and shard.administration.is_used():
        raise ForeignRun(f"{shard.address} holds a run of that name", shard)
    # `claim` fails if another run noted its folder meanwhile; the note is then read again below.
    if not held and shard.administration.claim(folder_id):
        return True
    if (held or shard.administration.folder_id()) != folder_id:
        raise ForeignRun(f"{shard.address} holds a run of that name, of another folder", shard)
    return False


def release(shards: Sequence[Shard]) -> None:
    """Delete the notes that `claim` made, for a run that does not start after all.

    A shard that is silent or refuses (a full disk) keeps its note, and stands in no other's way.
    """
    for shard in shards:
        with suppress(ShardError):
            shard.administration.unclaim()
