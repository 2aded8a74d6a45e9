"""The doctor says what is wrong and what to do about it, and fails when training could not start."""

import resource
import shutil
import sys
from pathlib import Path

import pytest

from deploy.cli import doctor
from deploy.cli.main import main
from replay.servers.binary import find_server


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    code = main(["doctor", *argv])
    return code, capsys.readouterr().out.splitlines()


def test_it_looks_at_everything_and_finds_this_machine_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = run(capsys, "--runs-dir", str(tmp_path / "new" / "runs"))
    names = [line[6:20].strip() for line in lines[:-1]]
    assert names == [
        "python",
        "packages",
        "torch",
        "cuda",
        "bfloat16",
        "cores, memory",
        "redis",
        "compiled code",
        "games",
        "shared memory",
        "open files",
        "temp folder",
        "disk",
    ]
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in lines[:-1])
    assert code == 0, lines
    assert lines[-1] == "this machine can train"


def test_redis_is_the_one_that_would_be_used() -> None:
    finding = doctor.redis()
    assert finding.level == "ok"
    server = find_server()
    assert finding.found.startswith(f"{server.kind} {server.version} from {server.source} ({server.path}), ")
    assert finding.found.endswith(f"sha256 {server.checksum}")


def test_where_compiled_code_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.segments.compiled.cache_folder", lambda: tmp_path / "cache")
    assert doctor.compiled_code() == ("ok", "compiled code", f"compiled code cache: {tmp_path / 'cache'}", "")
    monkeypatch.setattr("replay.segments.cache_folder._removed_at_end", [tmp_path])
    finding = doctor.compiled_code()
    assert (finding.level, finding.advice) == ("warn", "set NUMBA_CACHE_DIR to a folder of your own")


def test_without_a_redis_it_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APEXPERT_REDIS_SERVER", "/no/such/server")
    code, lines = run(capsys)
    assert code == 1
    assert [line for line in lines if line.startswith("fail  redis")]
    assert lines[-1] == "1 failed: redis"


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("numpy", "no_such_package"))
    finding = doctor.packages()
    assert (finding.level, finding.found) == ("fail", "missing: no_such_package")
    assert "make setup" in finding.advice


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError", "AttributeError"])
def test_a_torch_that_is_broken_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    (tmp_path / "torch.py").write_text(f"raise {error}('undefined\\nsymbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert doctor.torch()[:3] == ("fail", "torch", "cannot be imported: undefined symbol")
    assert doctor.cuda()[:3] == ("warn", "cuda", "unknown without torch")


@pytest.mark.parametrize(("free", "level"), [(0.5e9, "fail"), (3e9, "warn"), (50e9, "ok")])
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert doctor.disk(tmp_path / "runs").level == level


def test_a_file_where_the_runs_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    assert doctor.disk(tmp_path / "runs").found == f"{tmp_path / 'runs'} is not a folder"


@pytest.mark.parametrize(("limit", "level"), [(128, "fail"), (1024, "warn"), (65536, "ok")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, limit: int, level: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    finding = doctor.open_files()
    assert finding.level == level
    assert (level == "ok") == (finding.advice == "")


@pytest.mark.parametrize(("free", "level"), [(64e6, "warn"), (2e9, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    usage = shutil.disk_usage("/")._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert doctor.shared_memory().level == level


def test_a_temporary_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert doctor.temporary().level == "fail"
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    finding = doctor.temporary()
    assert finding.level == "fail"
    assert "TMPDIR" in finding.advice


@pytest.mark.parametrize(("fits", "level"), [(True, "ok"), (False, "fail")])
def test_a_temporary_folder_is_judged_as_the_servers_judge_it(
    monkeypatch: pytest.MonkeyPatch, fits: bool, level: str
) -> None:
    monkeypatch.setattr("replay.servers.configuration.has_room_for_sockets", lambda _: fits)
    assert doctor.temporary().level == level


@pytest.mark.parametrize(("flags", "level"), [({"fma"}, "warn"), ({"avx512_bf16"}, "ok"), ({"bf16"}, "ok")])
def test_bfloat16(monkeypatch: pytest.MonkeyPatch, flags: set[str], level: str) -> None:
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: flags)
    assert doctor.bfloat16().level == level
