"""Where a run's Redis URLs come from and where they are kept: arguments, files, environment, run folder."""

import errno
from pathlib import Path

import pytest

from deploy.run.checks import check
from deploy.run.config import Config, ConfigError, with_shard, with_values
from deploy.run.folder import RunFolder
from deploy.run.preflight import (
    URLS_VARIABLE,
    named_urls,
    urls_of_environment,
    with_named_urls,
    with_urls_of_today,
)

ONE, TWO = "redis://me:S3cret@a:1", "rediss://b:2?ssl_ca_certs=/ca.pem"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "urls"
    path.write_text(f"{ONE}\n\n{TWO}\n")
    return path


def test_a_file_of_urls_stands_for_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_urls((f"@{file}",)) == (ONE, TWO)
    assert named_urls(("redis://c:3", f"@{file}")) == ("redis://c:3", ONE, TWO)
    monkeypatch.setenv(URLS_VARIABLE, f"@{file}")
    assert urls_of_environment() == (ONE, TWO)
    monkeypatch.setenv(URLS_VARIABLE, f"{ONE}  {TWO}")
    assert urls_of_environment() == (ONE, TWO)
    monkeypatch.delenv(URLS_VARIABLE)
    assert urls_of_environment() == ()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\n", "no URLs in it"), (b"\xff", "text")]
)
def test_a_file_that_is_of_no_use_is_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "urls"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^--replay.urls @{path}: .*{reason}") as caught:
        named_urls((f"@{path}",))
    assert "\n" not in str(caught.value)


def test_a_resume_takes_the_servers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = with_values(Config(), replay__urls=(ONE, TWO))
    monkeypatch.delenv(URLS_VARIABLE, raising=False)
    assert with_urls_of_today(saved) == saved
    monkeypatch.setenv(URLS_VARIABLE, "redis://c:3 redis://d:4")
    assert with_urls_of_today(saved).replay.urls == ("redis://c:3", "redis://d:4")
    assert with_urls_of_today(Config()) == Config(), "embedded servers stay embedded"
    monkeypatch.setenv(URLS_VARIABLE, "redis://c:3")
    with pytest.raises(ConfigError, match="names 1 shards, and the run has 2"):
        with_urls_of_today(saved)


def test_a_runs_config_holds_no_password(tmp_path: Path) -> None:
    secret = with_values(Config(), run__name="r", run__runs_dir=str(tmp_path), replay__urls=(ONE, TWO))
    folder = RunFolder.create(secret)
    assert folder.load_config() == secret
    assert "S3cret" not in folder.config_path.read_text()
    assert "redis://me:***@a:1" in folder.config_path.read_text()
    assert folder.urls_path.read_text().split() == [ONE, TWO]
    assert folder.urls_path.stat().st_mode & 0o777 == 0o600
    plain = with_values(secret, replay__urls=(TWO,))
    folder.save_config(plain)
    assert folder.load_config() == plain
    assert not folder.urls_path.exists()


def test_urls_are_kept_until_the_config_without_them_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = with_values(Config(), run__name="r", run__runs_dir=str(tmp_path), replay__urls=(ONE, TWO))
    folder = RunFolder.create(secret)
    plain = with_values(secret, replay__urls=(TWO,))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_json", refuse)
        with pytest.raises(OSError, match="No space left"):
            folder.save_config(plain)
    assert folder.load_config() == secret
    folder.save_config(plain)
    assert folder.load_config() == plain


@pytest.mark.parametrize("url", [ONE, TWO, "redis://:a/b@h:1/3", "redis://[::1]:1", "unix:///a/b.sock?db=1"])
def test_urls_without_a_database_or_with_its_number_are_taken(url: str) -> None:
    check(with_values(Config(), replay__urls=(url,)))


def test_of_a_file_of_urls_a_run_keeps_the_name_alone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(URLS_VARIABLE, raising=False)
    config = with_values(Config(), run__name="r", run__runs_dir=str(tmp_path), replay__urls=(f"@{file}",))
    config = with_named_urls(config)
    assert (config.replay.urls, config.replay.urls_file) == ((ONE, TWO), str(file))
    folder = RunFolder.create(config)
    assert not any(b"S3cret" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
    assert folder.load_config() == config
    # A new password is read where the run is resumed, and a file that is gone is said there.
    file.write_text(f"{ONE.replace('S3cret', 'N3w')}\n{TWO}\n")
    assert "N3w" in with_urls_of_today(folder.load_config()).replay.urls[0]
    file.unlink()
    assert folder.load_config().replay.urls[0] == "redis://me:***@a:1"
    with pytest.raises(ConfigError, match=r"^--replay.urls @.*: No such file"):
        with_urls_of_today(folder.load_config())


def test_another_server_ends_what_the_file_says(file: Path, tmp_path: Path) -> None:
    config = with_values(Config(), run__name="r", run__runs_dir=str(tmp_path), replay__urls=(f"@{file}",))
    folder = RunFolder.create(with_named_urls(config))
    folder.save_config(with_shard(folder.load_config(), "redis://c:3"))
    assert folder.load_config().replay.urls == (ONE, TWO, "redis://c:3")
