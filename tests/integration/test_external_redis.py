"""The command on a Redis with a password: who sees it, and a resume that lost a part of its replay."""

import re
import secrets
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from deploy.cli.main import main
from deploy.run_folder import RunFolder
from tests.helpers.access import files_with, seen_of_processes
from tests.helpers.deadline import until
from tests.helpers.runs import CATCH, flags
from tests.helpers.servers import server_programs

PASSWORD = secrets.token_hex(16)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server of the user's own, with a password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "redis.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass {PASSWORD}\ndir {tmp_path}\n"
    )
    process = subprocess.Popen(
        [server_programs()["valkey"], str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL
    )
    client = redis.Redis(port=port, password=PASSWORD)
    until(lambda: answers(client), "the server")
    yield client
    client.close()
    process.terminate()
    process.wait()


@contextmanager
def watched_arguments() -> Iterator[list[bytes]]:
    """While it lasts: the arguments of all processes that hold the password, as anybody could see them."""
    found: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            found.extend(text for text in seen_of_processes("cmdline") if PASSWORD.encode() in text)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def test_the_password_is_in_one_private_file_and_a_loss_is_told(
    server: redis.Redis,
    shared_ray: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = server.connection_pool.connection_kwargs["port"]
    monkeypatch.setenv("APEXPERT_REDIS_URLS", f"redis://:{PASSWORD}@127.0.0.1:{port}")
    short = {
        "total_env_steps": 560,
        "runs_dir": str(tmp_path / "runs"),
        "name": "r",
        "ray_address": shared_ray,
    }
    argv = flags(CATCH | {"run": CATCH["run"] | short})
    with watched_arguments() as seen:
        assert main(["train", *argv]) == 0
    assert seen == []
    folder = RunFolder(tmp_path / "runs" / "r")
    printed = capsys.readouterr()
    assert "urls=redis://:***@127.0.0.1" in printed.out
    assert PASSWORD not in printed.out + printed.err
    assert files_with(PASSWORD.encode(), folder.path) == [folder.urls_path]
    assert stat.S_IMODE(folder.urls_path.stat().st_mode) == 0o600

    monkeypatch.delenv("APEXPERT_REDIS_URLS")
    server.delete(*server.scan_iter("apexpert:{r:0}:seg:0.0.1*"))
    assert main(["resume", str(folder.path), "--total-env-steps", "600"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"resume from update-0000000\d\d is not exact: \d+ items are gone since", printed.out)
    assert PASSWORD not in printed.out + printed.err
    assert files_with(PASSWORD.encode(), folder.path) == [folder.urls_path]
