"""What a role does with shards that are added while it starts and runs."""

from pathlib import Path

from deploy.fleet.role import Assignment, Role
from replay.shard import Shard
from tests.helpers.runs import catch_config


def test_shards_are_used_in_order_whenever_one_hears_of_them(tmp_path: Path) -> None:
    config = catch_config(tmp_path, run__name="r")
    role = Role(Assignment(config, str(tmp_path), ("redis://a:1",), store=None), "test", patience=1.0)
    used: list[Shard] = []
    role.add_shard(0, "redis://a:1")  # known
    role.add_shard(2, "redis://c:1")  # calls overtake each other
    role.add_shard(1, "redis://b:1")
    role._start_using(used.append)
    role.add_shard(4, "redis://e:1")
    role.add_shard(2, "redis://c:1")
    role.add_shard(3, "redis://d:1")
    assert [(shard.index, shard.address) for shard in used] == [
        (1, "redis://b:1/0"), (2, "redis://c:1/0"), (3, "redis://d:1/0"), (4, "redis://e:1/0"),
    ]  # fmt: skip
    assert [shard.retry_seconds for shard in used] == [1.0] * 4
