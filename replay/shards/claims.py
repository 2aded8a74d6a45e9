"""Whose keys a shard's keys are: each run folder notes its id in the shards that it uses.

Runs of one name in different folders would otherwise take each other's segments for their own.
"""

from collections.abc import Sequence

from replay.errors import ForeignRun, ShardFull, ShardUnavailable
from replay.shards.shard import Shard


def claim(shards: Sequence[Shard], folder_id: str, *, new: bool) -> None:
    """Note in each shard that answers that its run belongs to the folder of that id.

    A full one takes no note; what is noted there counts all the same. Raises ForeignRun when one of them
    belongs to another folder, or, for a `new` run, holds anything of that name; what was noted by this call
    is taken back then, and after any other error.
    """
    noted: list[Shard] = []
    try:
        for shard in shards:
            try:
                if _take(shard, folder_id, new=new):
                    noted.append(shard)
            except (ShardUnavailable, ShardFull):
                continue  # whoever starts the run decides whether it can do without
    except BaseException:
        release(noted)
        raise


def _take(shard: Shard, folder_id: str, *, new: bool) -> bool:
    """Whether this call has noted the folder; ForeignRun when it must not."""
    held = shard.administration.folder_id()
    if not held and new and shard.administration.is_used():
        raise ForeignRun(f"{shard.address} holds a run of that name", shard)
    if not held and shard.administration.claim(folder_id):
        return True
    if (held or shard.administration.folder_id()) != folder_id:
        raise ForeignRun(f"{shard.address} holds a run of that name, of another folder", shard)
    return False


def release(shards: Sequence[Shard]) -> None:
    """Take back what `claim` has noted for a run that does not start after all."""
    for shard in shards:
        try:
            shard.administration.unclaim()
        except ShardUnavailable:
            continue
