"""Shards know which folder's run they hold."""

import pytest

from replay.errors import ForeignRun, ShardFull
from replay.shards.claims import claim, release
from replay.shards.shard import Shard
from tests.helpers.replay.samplers import new_run
from tests.helpers.shards.servers import make_shards, shared_urls


def test_a_new_run_takes_shards_and_its_folder_keeps_them(shards: list[Shard]) -> None:
    claim(shards, "mine", new=True)
    assert {shard.administration.folder_id() for shard in shards} == {"mine"}
    claim(shards, "mine", new=False)


def test_another_folder_is_refused_and_changes_nothing(shards: list[Shard]) -> None:
    claim(shards[1:], "mine", new=True)
    for new in (True, False):
        with pytest.raises(ForeignRun, match=shards[1].address):
            claim(shards, "other", new=new)
        assert [shard.administration.folder_id() for shard in shards] == ["", "mine"], (
            "what was taken is given back"
        )


def test_a_new_run_is_refused_where_anything_of_its_name_is_though_nobody_noted_a_folder(
    program: str,
) -> None:
    """Runs of before noted none."""
    run = new_run(shared_urls(program)[:2], capacity=100)
    run.fill(0, 20, actor=0)
    with pytest.raises(ForeignRun):
        claim(run.shards, "mine", new=True)
    claim(run.shards, "mine", new=False)
    assert {shard.administration.folder_id() for shard in run.shards} == {"mine"}


def test_of_two_new_runs_at_once_one_gets_the_shards(shards: list[Shard]) -> None:
    """Both have looked before either has taken."""
    other = shards[0].administration.claim

    def late(folder_id: str) -> bool:
        other("quicker")
        return other(folder_id)

    shards[0].administration.claim = late  # type: ignore[method-assign]
    with pytest.raises(ForeignRun):
        claim(shards, "slower", new=True)
    assert [shard.administration.folder_id() for shard in shards] == ["quicker", ""]


def test_what_a_run_took_that_does_not_start_is_free_again(shards: list[Shard]) -> None:
    claim(shards, "mine", new=True)
    release(shards)
    claim(shards, "other", new=True)
    assert {shard.administration.folder_id() for shard in shards} == {"other"}


def test_a_shard_that_does_not_answer_is_left_out(shards: list[Shard], run_name: str) -> None:
    gone = Shard("redis://127.0.0.1:1", run=run_name, index=2, retry_seconds=0.1)
    claim([*shards, gone], "mine", new=False)
    assert {shard.administration.folder_id() for shard in shards} == {"mine"}


def test_a_full_shard_keeps_its_folder_and_refuses_no_owner(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis out of memory refuses SET, also of a key that is there."""

    def full(folder_id: str) -> bool:
        raise ShardFull("OOM command not allowed")

    claim(shards[:1], "mine", new=True)
    for shard in shards:
        monkeypatch.setattr(shard.administration, "claim", full)
    claim(shards, "mine", new=False)
    with pytest.raises(ForeignRun):
        claim(shards, "other", new=False)


def test_what_was_noted_is_taken_back_after_any_error(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder_id: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards[1].administration, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        claim(shards, "mine", new=True)
    assert shards[0].administration.folder_id() == ""


def test_a_full_shard_does_not_keep_others_from_being_given_back(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis whose disk is full refuses UNLINK too."""
    shards = make_shards(3, program=program)

    def full() -> None:
        raise ShardFull("MISCONF Errors writing to the AOF file")

    def interrupted(folder_id: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards[0].administration, "unclaim", full)
    monkeypatch.setattr(shards[2].administration, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        claim(shards, "mine", new=True)
    assert [shard.administration.folder_id() for shard in shards] == ["mine", "", ""]
