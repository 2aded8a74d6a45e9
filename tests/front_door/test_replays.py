"""`apexpert.open_replay` on a finished run's folder and on servers of the user's own."""

import os
from pathlib import Path

import numpy as np
import psutil
import pytest

import apexpert
from apexpert import ApexpertError
from deploy.run.errors import RunNotFound
from replay.servers.embedded import EmbeddedServers
from tests.helpers.deadline import until
from tests.helpers.replay.stored_runs import everything, filled
from tests.helpers.runs.commands import Trained
from tests.helpers.shards.servers import shared_urls


def servers_below() -> list[int]:
    """Guardians that this process has started; process_iter gives None for what ends meanwhile."""
    found = psutil.process_iter(["ppid", "cmdline"])
    mine = [process for process in found if process.info["ppid"] == os.getpid()]
    return [process.pid for process in mine if "guardian" in " ".join(process.info["cmdline"] or ())]


def test_batches_and_segments_of_a_finished_run(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    before = servers_below()
    with apexpert.open_replay(str(terminal.folder.path)) as replay:
        assert len(servers_below()) == len(before) + 1
        batch = replay.sample(8)
        assert isinstance(batch, apexpert.Batch)
        assert batch.observation.shape == (8, 1, 84, 84)
        assert replay.size >= terminal.status()["metrics"]["replay/size"], "what actors wrote at the end, too"
        segments = list(replay.segments())
        assert sum(segment.num_items for segment in segments) == replay.size
        assert all(isinstance(segment, apexpert.Segment) for segment in segments)
        several = replay.batches(4)
        assert [len(next(several).action) for _ in range(3)] == [4, 4, 4]
        # By the priorities of the checkpoint, which the learner has set.
        assert len(np.unique(np.concatenate([replay.sample(32).probability for _ in range(9)]))) > 20
    assert servers_below() == before
    assert terminal.run("replay", "r", "--verify").returncode == 0


def test_an_error_of_the_users_own_passes_as_it_is_and_nothing_stays_open(
    trained: Trained, tmp_path: Path
) -> None:
    """Before, an error inside was reported as the command's, and the shards' connections stayed."""
    folder = trained.terminal.copy(tmp_path).folder
    before = servers_below()
    for error in (KeyError("the user's"), apexpert.ApexpertError("the user's, too")):
        with pytest.raises(type(error)) as caught, apexpert.open_replay(str(folder.path)):
            raise error
        assert caught.value is error
        assert servers_below() == before
    with folder.lock():
        pass


def test_it_may_be_closed_by_hand(trained: Trained, tmp_path: Path) -> None:
    folder = trained.terminal.copy(tmp_path).folder
    replay = apexpert.open_replay(folder.name, runs_dir=str(folder.path.parent))
    assert replay.sample(2).action.shape == (2,)
    replay.close()
    with folder.lock():
        pass


def test_a_replay_on_servers_of_ones_own_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    urls = shared_urls()
    run = filled(urls)
    before = everything(urls)
    with apexpert.open_replay(run.name, urls=tuple(urls)) as replay:
        assert replay.size == len(run.items) or replay.size > 200
        batch = replay.sample(16)
        assert batch.observation.shape[1:] == (run.signature.stack, *run.signature.frame_shape)
        found = {segment.identity for segment in replay.segments()}
        assert found == set(run.segments)
    assert everything(urls) == before
    with pytest.raises(ApexpertError, match="nothing is stored under that name"):
        apexpert.open_replay("nobody", urls=tuple(urls))


def test_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunNotFound) as caught:
        apexpert.open_replay("nobody")
    assert caught.value.flag == "--runs-dir"


def test_an_embedded_replay_where_nothing_was_stored_yet(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "s", shards=1, append_fsync="everysec", maxmemory=2**27) as servers:
        sampler = apexpert.ReplaySampler(
            servers.urls, frame_shape=(84, 84), num_actions=2, batch_size=4, samples_per_insert=1.0
        )
        assert not sampler.can_sample()
        sampler.close()
    until(lambda: not servers.pids or all(pid is None for pid in servers.pids), "their end", 10)
