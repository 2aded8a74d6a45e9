"""A run whose output goes: `nohup`, a closed standard error, a pipe whose reader dies by the same Ctrl-C."""

import os
import signal
import subprocess
from pathlib import Path

from learner.checkpoint import CheckpointStore
from tests.faults.test_terminated import ENDLESS, learns, status
from tests.helpers.commands import APEXPERT, Started, Terminal
from tests.helpers.deadline import patient, until
from tests.helpers.runs import flags, metric


def without_error_and_hangup() -> None:
    """As `nohup` starts a command, and `2>&-`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.close(2)


def test_a_run_outlives_its_terminal_and_ends_with_a_checkpoint_when_its_reader_has_died(
    tmp_path: Path,
) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    words = ["train", "--preset", "laptop", *flags(ENDLESS)]
    with terminal.ending_ray():
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [APEXPERT, *words], cwd=tmp_path, env=terminal.environment(), stdin=subprocess.DEVNULL,
            stdout=writer, preexec_fn=without_error_and_hangup,
        )  # fmt: skip
        os.close(writer)
        log = tmp_path / "seen.txt"
        log.touch()
        command = Started(process, log)
        try:
            learns(folder, command, 10)
            os.kill(process.pid, signal.SIGHUP)
            learns(folder, command, metric(status(folder), "progress/updates") + 10)
            log.write_bytes(os.read(reader, 2**20))
            assert "running" in command.printed(), "it was seen until now"

            os.close(reader)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(patient(60)) == 0
        finally:
            process.kill()
            process.wait()
    until(lambda: status(folder)["state"] == "stopped", "the last status", 10)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == metric(status(folder), "progress/updates") > 20
