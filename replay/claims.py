"""Whose keys a shard's keys are: each run folder notes its id in the shards that it uses.

Runs of one name in different folders would otherwise take each other's segments for their own.
"""

from collections.abc import Sequence

from replay.errors import ForeignRun, ShardUnavailable
from replay.shard import Shard


def claim(shards: Sequence[Shard], folder_id: str, *, new: bool) -> None:
    """Note in each shard that answers that its run belongs to the folder of that id.

    Raises ForeignRun when one of them belongs to another folder, or, for a `new` run, holds anything of that
    name; what was noted by this call is taken back then.
    """
    noted: list[Shard] = []
    try:
        for shard in shards:
            try:
                if new and shard.is_used():
                    raise ForeignRun(f"{shard.address} holds a run of that name", shard)
                if shard.claim(folder_id):
                    noted.append(shard)
                elif new or shard.folder_id() != folder_id:
                    raise ForeignRun(f"{shard.address} holds a run of that name, of another folder", shard)
            except ShardUnavailable:
                continue  # whoever starts the run decides whether it can do without
    except ForeignRun:
        release(noted)
        raise


def release(shards: Sequence[Shard]) -> None:
    """Take back what `claim` has noted for a run that does not start after all."""
    for shard in shards:
        try:
            shard.unclaim()
        except ShardUnavailable:
            continue
