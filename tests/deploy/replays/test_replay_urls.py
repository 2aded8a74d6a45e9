"""Which servers `apexpert replay` asks for a run that has a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.replays import source
from deploy.run.config import ConfigError
from deploy.run.folder import RunFolder
from deploy.run.preflight import URLS_VARIABLE
from tests.helpers.runs.catch_runs import catch_config

SAVED, TODAY, GIVEN = ("redis://saved:1",), ("redis://today:1",), ("redis://given:1",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose servers have moved since its configuration was saved."""

    @contextlib.contextmanager
    def connected(run: str, urls: tuple[str, ...], **_: Any) -> Iterator[tuple[str, ...]]:
        yield urls

    monkeypatch.setattr(source, "connected", connected)
    monkeypatch.setenv(URLS_VARIABLE, TODAY[0])
    return RunFolder.create(catch_config(tmp_path, run__name="r", replay__urls=SAVED))


def asked(folder: RunFolder, given: tuple[str, ...] = ()) -> Any:
    with source.opened(str(folder.path), "runs", given) as urls:
        return urls


def test_servers_that_have_moved_are_found_as_resume_finds_them(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(folder) == TODAY
    assert asked(folder, GIVEN) == GIVEN
    monkeypatch.setenv(URLS_VARIABLE, "redis://a:1 redis://b:1")
    with pytest.raises(ConfigError, match="names 2 shards, and the run has 1"):
        asked(folder)
    monkeypatch.delenv(URLS_VARIABLE)
    assert asked(folder) == SAVED


def test_a_run_at_work_has_the_servers_that_it_was_started_with(folder: RunFolder) -> None:
    with folder.lock():
        assert asked(folder) == SAVED
