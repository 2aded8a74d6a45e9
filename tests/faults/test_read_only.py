"""Commands on a run whose folder cannot be written: what can be shown is shown, and the rest is one line."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.runs.commands import NAME, Terminal, Trained
from tests.helpers.runs.processes import may_mount, small_disk

pytestmark = pytest.mark.skipif(not may_mount(), reason="no right to mount a file system")


@pytest.fixture
def read_only(trained: Trained, tmp_path: Path) -> Iterator[Terminal]:
    """A finished run on a file system that is mounted read-only."""
    with small_disk(tmp_path / "disk", megabytes=256) as disk:
        terminal = trained.terminal.copy(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield terminal


def one_line(text: str) -> bool:
    return text.startswith("apexpert: ") and text.count("\n") == 1


def test_scores_are_shown_and_a_run_does_not_start(read_only: Terminal) -> None:
    played = read_only.run("evaluate", NAME, "--episodes", "2")
    assert played.returncode == 1, "no report was kept"
    assert "return_mean" in played.stdout, "the scores are shown all the same"
    warning = played.stderr.splitlines()[0]
    assert warning.startswith("WARNING: no report will be kept: ")
    assert warning.endswith("Read-only file system"), "told before it plays"
    assert "the report cannot be written" in played.stderr.splitlines()[-1]
    assert "Traceback" not in played.stderr
    refused(read_only, "resume", NAME, "--total-env-steps", "9999")


def refused(terminal: Terminal, *words: str) -> None:
    done = terminal.run(*words)
    assert done.returncode == 2, words
    assert one_line(done.stderr), done.stderr
    assert "Read-only file system" in done.stderr


@pytest.mark.faults_long
def test_every_command_fails_with_one_line_or_shows_what_it_can(read_only: Terminal) -> None:
    terminal = read_only
    asked = terminal.run("evaluate", NAME, "--episodes", "2", "--video")
    assert asked.returncode == 2
    assert one_line(asked.stderr)
    assert "--video" in asked.stderr

    refused(terminal, "replay", NAME)
    for words in (["plot", NAME], ["show", NAME]):
        failed = terminal.run(*words)
        assert failed.returncode != 0, words
        assert "Read-only file system" in failed.stderr
        assert "Traceback" not in failed.stderr
    for words in (["status", NAME], ["list"], ["stop", NAME]):
        shown = terminal.run(*words)
        assert shown.returncode == 0, words
        assert "finished" in shown.stdout
