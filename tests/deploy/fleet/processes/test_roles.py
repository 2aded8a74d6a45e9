"""What a role does with shards that are added while it starts and runs, and when it has to end."""

from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from deploy.fleet.processes.learner_process import LEARNER_PATIENCE_SECONDS, LearnerProcess
from deploy.fleet.processes.role import Assignment, Role
from replay.shards.shard import Shard
from tests.helpers.runs.catch_runs import catch_config


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


def test_a_learner_in_lockstep_that_is_alone_waits_for_no_shard_for_long(tmp_path: Path) -> None:
    """It draws the same again, so it has patience; whoever sent SIGTERM to everything has not."""
    config = catch_config(tmp_path, run__name="r", run__lockstep=True, actors__envs_per_actor=1)
    assignment = Assignment(config, str(tmp_path), ("redis://a:1",), store=None)
    process = LearnerProcess(assignment, set(), -1, 1, Pipe()[0])
    (shard,) = process._shards()
    assert shard.retry_seconds == 30.0
    at_work: Any = object()
    process._learner = at_work
    process.leave("SIGTERM")
    assert process.should_stop()
    assert shard.retry_seconds == LEARNER_PATIENCE_SECONDS
