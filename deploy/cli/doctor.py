"""`apexpert doctor`: whether and how well this machine can train, and what to do about what is missing."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from deploy.cli.parsing import parse
from deploy.run.folder import RunFolder
from deploy.run.machine.findings import Finding, gigabytes, open_files, python, shared_memory
from deploy.run.metadata import cpu_name, gpus

NEEDED = (
    "ray",
    "ale_py",
    "gymnasium",
    "numba",
    "redis",
    "hiredis",
    "msgpack",
    "lz4",
    "safetensors",
    "tensorboard",
)


@dataclass(frozen=True)
class DoctorArguments:
    """Check that this machine can train, and say what to do where it cannot; exit code 1 if it cannot."""

    runs_dir: str = "runs"
    """Folder that will hold the runs; its disk is checked."""


def doctor(argv: Sequence[str]) -> int:
    """Print one line per check; return 1 if one failed, else 0."""
    arguments = parse(DoctorArguments, argv, command="doctor")
    findings = [examine() for examine in CHECKS] + [disk(Path(arguments.runs_dir))]
    for finding in findings:
        print(line(finding))
    failed = [finding.name for finding in findings if finding.level == "fail"]
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "this machine can train")
    return 1 if failed else 0


def line(finding: Finding) -> str:
    """Format a finding with its advice: `ok    redis          7.4.1 (/usr/bin/redis-server)`."""
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{finding.level:<5} {finding.name:<14} {finding.found}{advice}"


def packages() -> Finding:
    """Check that every package that training imports is installed, without importing any."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("fail", "packages", f"missing: {', '.join(missing)}", "run: make setup")
    return Finding("ok", "packages", f"ray {metadata.version('ray')}, ale-py {metadata.version('ale-py')}")


def torch() -> Finding:
    """Check that PyTorch imports."""
    try:
        import torch as module
    except Exception as error:  # What a broken installation raises is anybody's guess.
        found = f"cannot be imported: {' '.join(str(error).split())}"
        return Finding("fail", "torch", found, "run: make setup")
    return Finding("ok", "torch", f"{module.__version__}, {module.get_num_threads()} threads")


def cuda() -> Finding:
    """Check for a GPU for the learner."""
    if torch().level == "fail":
        return Finding("warn", "cuda", "unknown without torch")
    import torch as module

    if module.cuda.is_available():
        return Finding("ok", "cuda", f"{module.cuda.get_device_name(0)}, CUDA {module.version.cuda}")
    if gpus():
        advice = "install a CUDA build of torch, and a driver that is new enough for it"
        return Finding("warn", "cuda", f"torch cannot use the GPU that is here ({gpus()[0]})", advice)
    return Finding("warn", "cuda", "no GPU", "the learner runs on the CPU: use --preset laptop")


def bfloat16() -> Finding:
    """Check for bfloat16 instructions, which make acting on the CPU about twice as fast."""
    flags = _cpu_flags()
    # The last of the three is ARM's name.
    found = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    if found:
        return Finding("ok", "bfloat16", f"{cpu_name()} has {', '.join(found)}")
    return Finding(
        "warn", "bfloat16", f"{cpu_name()} has none", "acting uses float32, at about half the speed"
    )


def cores() -> Finding:
    """Check cores and memory."""
    usable, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory()
    found = f"{usable} cores, {gigabytes(memory.available)} of {gigabytes(memory.total)} memory available"
    if memory.available < 2e9:
        return Finding("fail", "cores, memory", found, "free at least 2 GB")
    if usable < 2 or memory.available < 4e9:
        return Finding("warn", "cores, memory", found, "2 cores and 4 GB are a comfortable minimum")
    return Finding("ok", "cores, memory", found)


def redis() -> Finding:
    """Check for the server that embedded shards run."""
    from replay.errors import ServerError
    from replay.servers.embedded import find_server

    try:
        server = find_server()
        checksum = server.checksum
    except (ServerError, OSError) as error:
        return Finding(
            "fail", "redis", str(error), "install redis-server or valkey-server, or run: make setup"
        )
    found = f"{server.kind} {server.version} from {server.source} ({server.path}), sha256 {checksum}"
    return Finding("ok", "redis", found)


def compiled_code() -> Finding:
    """Check for a lasting folder for numba's compiled code, so that no process compiles it again."""
    try:
        from replay.segments.cache_folder import is_removed_at_end
        from replay.segments.compiled import VARIABLE, cache_folder

        folder = cache_folder()
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("fail", "compiled code", str(error), "make the home or temporary folder writable")
    if is_removed_at_end(folder):
        found = f"compiled code cache: none that lasts, only {folder}"
        return Finding("warn", "compiled code", found, f"set {VARIABLE} to a folder of your own")
    return Finding("ok", "compiled code", f"compiled code cache: {folder}")


def games() -> Finding:
    """Check for the Atari games that come with ale-py."""
    try:
        from actors.environments import list_games

        count = len(list_games())
    except (ImportError, OSError) as error:
        return Finding("fail", "games", f"cannot be listed: {error}", "run: make setup")
    if count == 0:
        return Finding("fail", "games", "none", "install ale-py with its games: make setup")
    return Finding("ok", "games", f"{count} Atari games")


def temporary() -> Finding:
    """Check for a writable temporary folder with a path short enough for UNIX sockets."""
    from replay.servers.configuration import has_room_for_sockets

    try:
        with tempfile.TemporaryDirectory(prefix="apexpert-") as folder:
            (Path(folder) / "probe").write_bytes(b"x")
    except OSError as error:
        return Finding("fail", "temp folder", str(error), "set TMPDIR to a folder that you may write to")
    if not has_room_for_sockets(tempfile.gettempdir()):
        return Finding(
            "fail", "temp folder", tempfile.gettempdir(), "too long for sockets: set TMPDIR to a short path"
        )
    return Finding("ok", "temp folder", f"{tempfile.gettempdir()} is writable")


def disk(runs_dir: Path) -> Finding:
    """Check free disk space, and permission to write, where the runs will be."""
    # RunFolder makes the path absolute, and refuses one that is not UTF-8.
    folder = RunFolder(runs_dir).path
    # A folder that does not exist yet will be made in its nearest parent that does.
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding("fail", "disk", f"{existing} is not a folder", "choose another --runs-dir")
    free = shutil.disk_usage(existing).free
    found = f"{gigabytes(free)} free in {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("fail", "disk", f"{existing} is not writable", "choose another --runs-dir")
    if free < 1e9:
        return Finding("fail", "disk", found, "free at least 1 GB, or choose another --runs-dir")
    if free < 5e9:
        return Finding(
            "warn", "disk", found, "--preset laptop takes about 1 GB, the paper's presets about 3 GB"
        )
    return Finding("ok", "disk", found)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    packages,
    torch,
    cuda,
    bfloat16,
    cores,
    redis,
    compiled_code,
    games,
    shared_memory,
    open_files,
    temporary,
)


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    # x86 says flags, ARM says Features.
    lines = [row for row in text.splitlines() if row.lower().startswith(("flags", "features"))]
    return set(lines[0].split(":", 1)[1].split()) if lines else set()
