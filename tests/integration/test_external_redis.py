"""The command on a Redis with a password, also over TLS: who sees it, and a resume that lost some replay."""

import re
import secrets
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
import redis

from deploy.cli.main import main
from deploy.run.folder import RunFolder
from tests.helpers.deadline import until
from tests.helpers.runs.catch_runs import CATCH, flags
from tests.helpers.shards.access import files_with, seen_of_processes
from tests.helpers.shards.servers import server_programs
from tests.helpers.shards.tls import Authority, a_free_port, tls_proxy

PASSWORD = secrets.token_hex(16)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server of the user's own, with a password."""
    port = a_free_port()
    (tmp_path / "redis.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nunixsocket {tmp_path}/s\nrequirepass {PASSWORD}\ndir {tmp_path}\n"
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


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.faults_long), "tls"])
def url(request: pytest.FixtureRequest, server: redis.Redis, tmp_path: Path) -> Iterator[str]:
    """The server's, with the password; by TLS with a CA of its own, which asks for a client's certificate."""
    if request.param == "plain":
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.connection_pool.connection_kwargs['port']}"
        return
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by the openssl program, which is not here")
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.client
    with tls_proxy(authority, str(tmp_path / "s"), asks_clients=True) as port:
        files = f"ssl_ca_certs={authority.certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
        yield f"rediss://:{PASSWORD}@127.0.0.1:{port}?{files}"


@contextmanager
def watched(*kinds: str) -> Iterator[list[bytes]]:
    """While it lasts: what others may see of processes (arguments, environment) that holds the password."""
    found: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for kind in kinds:
                found.extend(text for text in seen_of_processes(kind) if PASSWORD.encode() in text)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def ray_folder() -> Path:
    """Where the Ray that this process is connected to writes its logs and everything else."""
    node = ray._private.worker._global_node
    assert node is not None
    folder = Path(node.get_session_dir_path())
    assert files_with(b"Supervisor", folder), "it tells of the run"
    return folder


def test_the_password_is_in_one_private_file_and_a_loss_is_told(
    server: redis.Redis,
    url: str,
    shared_ray: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scheme = url.partition(":")[0]
    (tmp_path / "urls").write_text(url)
    monkeypatch.setenv("APEXPERT_REDIS_URLS", url if scheme == "redis" else f"@{tmp_path / 'urls'}")
    short = {
        "total_env_steps": 560,
        "runs_dir": str(tmp_path / "runs"),
        "name": "r",
        "ray_address": shared_ray,
    }
    argv = flags(CATCH | {"run": CATCH["run"] | short})
    with watched(*(["cmdline"] if scheme == "redis" else ["cmdline", "environ"])) as seen:
        assert main(["train", *argv]) == 0
    assert seen == []
    folder = RunFolder(tmp_path / "runs" / "r")
    printed = capsys.readouterr()
    assert f"urls={scheme}://:***@127.0.0.1" in printed.out
    assert PASSWORD not in printed.out + printed.err
    # A file that was named is read again by whoever needs it, and nothing of it is copied.
    copied = [folder.urls_path] if scheme == "redis" else []
    assert files_with(PASSWORD.encode(), folder.path) == copied
    assert files_with(PASSWORD.encode(), ray_folder()) == []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in copied)

    check_others_are_refused(folder, argv, tmp_path, capsys)
    folder = RunFolder(folder.path.rename(folder.path.with_name("renamed")))
    monkeypatch.delenv("APEXPERT_REDIS_URLS")
    server.delete(*server.scan_iter("apexpert:{r:0}:seg:0.0.1*"))
    with watched("cmdline", "environ") as seen:
        assert main(["resume", str(folder.path), "--total-env-steps", "600"]) == 0
    assert seen == []
    printed = capsys.readouterr()
    assert re.search(r"resume from update-0000000\d\d is not exact: \d+ items are gone since", printed.out)
    assert PASSWORD not in printed.out + printed.err
    # A file that was named is read again by whoever needs it, and nothing of it is copied.
    copied = [folder.urls_path] if scheme == "redis" else []
    assert files_with(PASSWORD.encode(), folder.path) == copied
    assert files_with(PASSWORD.encode(), ray_folder()) == []


def check_others_are_refused(
    folder: RunFolder, argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new run of the same name in another folder, and a copy of the folder: they would take its keys."""
    elsewhere = [str(tmp_path / "others") if word == str(tmp_path / "runs") else word for word in argv]
    assert main(["train", *elsewhere]) == 2
    refusal = capsys.readouterr().err
    assert re.search(r"--name r: rediss?://127\.0\.0\.1", refusal)
    for way in ("apexpert resume r", "apexpert replay r --delete", "another --name"):
        assert way in refusal
    assert not (tmp_path / "others" / "r").exists(), "nothing was started"

    copy = tmp_path / "copy" / "r"
    shutil.copytree(folder.path, copy)
    assert main(["resume", str(copy), "--total-env-steps", "600"]) == 2
    refusal = capsys.readouterr().err
    for way in ("--export DIR", "--import DIR", "another --name"):
        assert way in refusal
    assert main(["replay", str(copy), "--delete", "--yes"]) == 2
    assert "belong to another folder than this one, which is a copy" in capsys.readouterr().err
    assert main(["replay", str(copy)]) == 0, "anybody may look"
    assert "items" in capsys.readouterr().out
