"""Commit, package versions and hardware that a run was made with, saved beside its configuration."""

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from deploy.run.config import hide_password

PACKAGES = (
    "apexpert",
    "torch",
    "ray",
    "numpy",
    "numba",
    "redis",
    "ale-py",
    "gymnasium",
    "msgpack",
    "lz4",
    "safetensors",
)


def collect() -> dict[str, Any]:
    """Return commit (None outside a checkout), versions and hardware of this machine, JSON-able."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [hide_password(word) for word in sys.argv],
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(),
    }


def commit() -> str | None:
    """Return the commit of the source checkout, with `+` appended if files differ; None without one."""
    source = Path(__file__).resolve().parents[2]
    # An installed package may lie in a checkout of the user's, whose commit is not ours.
    if not (source / ".git").exists():
        return None
    head = _output(["git", "-C", str(source), "rev-parse", "HEAD"])
    changed = _output(["git", "-C", str(source), "status", "--porcelain", "--untracked-files=no"])
    return f"{head}+" if head and changed else head or None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def hardware() -> dict[str, Any]:
    """Return this machine's CPU, usable cores, memory in bytes and GPUs."""
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        # A container or taskset may leave a process fewer cores than the machine has.
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus(),
    }


def cpu_name() -> str:
    """Return the processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpus() -> list[str]:
    """Return name, memory and driver of each NVIDIA GPU; empty without `nvidia-smi`."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return _output(query).splitlines()


def _output(command: list[str]) -> str:
    """Return the command's output; empty if it cannot run, fails or takes over 10 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
