"""Printing that fails ends nothing, and exit codes stay true."""

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import output
from deploy.cli.run.follow import Interrupts
from tests.helpers.root import ROOT

BROKEN = OSError(errno.EPIPE, "Broken pipe")
FULL, GONE = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
CLOSED = ValueError("I/O operation on closed file")


class Failing(io.StringIO):
    """A stream that fails once `failure` is set; on flush alone where `late`."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.late = late

    def write(self, text: str) -> int:
        if self.failure and not self.late:
            raise self.failure
        return super().write(text)

    def flush(self) -> None:
        if self.failure:
            raise self.failure


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("failure", [BROKEN, GONE, CLOSED], ids=str)
def test_what_cannot_be_printed_raises_nothing_and_is_known(
    failure: Exception, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Failing(late=late)
    monkeypatch.setattr(sys, "stdout", stream)
    with output.unfailing():
        print("seen", flush=True)
        assert not output.is_lost()
        stream.failure = failure
        print("not seen", flush=True)
        print("nor this", flush=True)
        assert output.is_lost()
        assert output.why_lost() == (getattr(failure, "strerror", None) or str(failure))
    assert stream.getvalue().startswith("seen\n")


@pytest.mark.parametrize("late", [False, True])
def test_a_disk_that_is_full_for_a_while_loses_no_output(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train > log`: what the run says of the disk must not end it."""
    stream = Failing(late=late)
    monkeypatch.setattr(sys, "stdout", stream)
    with output.unfailing():
        stream.failure = FULL
        print("not seen", flush=True)
        assert not output.is_lost()
        stream.failure = None
        print("seen again", flush=True)
    assert "seen again" in stream.getvalue()


def test_a_lost_standard_error_is_not_a_lost_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Failing()
    stream.failure = BROKEN
    monkeypatch.setattr(sys, "stderr", stream)
    with output.unfailing():
        print("x", file=sys.stderr, flush=True)
        assert not output.is_lost()


def apexpert(words: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell that gives the command's own exit code, whatever its reader does."""
    line = f"set -o pipefail; {sys.executable} -m deploy.cli.main {words}"
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help | true", 0),
        ("train --help | head -1", 0),
        ("list --runs-dir nowhere >&-", 0),
        ("list --runs-dir nowhere 2>&-", 0),
        ("status nothing 2>&- >&- <&-", 2),
        ("status nothing 2>/dev/full", 2),
        ("--version > /dev/full", 0),
    ],
)
def test_exit_codes_are_true_whatever_becomes_of_the_output(words: str, code: int) -> None:
    done = apexpert(words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_that_was_closed_is_a_lost_output() -> None:
    """Its programs get EIO for every write."""
    ours, theirs = os.openpty()
    code = (
        "import sys\nfrom deploy.cli import output\n"
        "with output.unfailing():\n"
        "    print('seen', flush=True)\n    sys.stdin.readline()\n    print('unseen', flush=True)\n"
        "    sys.exit(7 if output.is_lost() else 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        assert b"seen" in os.read(ours, 100)
        os.close(ours)
        process.communicate(b"\n")
    assert process.returncode == 7


def test_a_stream_that_was_closed_is_not_the_next_file_that_is_opened(tmp_path: Path) -> None:
    code = (
        "from deploy.cli.output import open_closed_streams; open_closed_streams();"
        "import sys, os; file = open(sys.argv[1], 'w'); os.write(2, b'printed'); os.write(1, b'printed')"
    )
    line = f'{sys.executable} -c "{code}" {tmp_path}/file >&- 2>&-'
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("number", Interrupts.SIGNALS)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    """`nohup`; `command &` in a script, for Ctrl-C."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            assert interrupts.count == 0
            assert signal.getsignal(number) == signal.SIG_IGN
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
