"""Breaks the code, one patch at a time, in a copy of the tree, and sees the test that the patch names fail.

A patch starts with the lines `# breaks: <what>` and `# test: <pytest node id>`; the rest is for `git apply`.
Run by `make mutants`; give names (without .patch) to run only those.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "tests" / "mutations"


@dataclass(frozen=True)
class Mutation:
    path: Path
    breaks: str
    test: str


def read(path: Path) -> Mutation:
    head = dict(line[2:].split(": ", 1) for line in path.read_text().splitlines()[:2])
    return Mutation(path, head["breaks"], head["test"])


def all_mutations() -> list[Mutation]:
    return [read(path) for path in sorted(PATCHES.glob("*.patch"))]


def copy_tree(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def apply(mutation: Mutation, tree: Path, *, check_only: bool = False) -> subprocess.CompletedProcess[str]:
    command = ["git", "apply", *(["--check"] if check_only else []), str(mutation.path)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def run_test(mutation: Mutation, tree: Path) -> subprocess.CompletedProcess[str]:
    # The copy comes first on the path, also in the processes that the test starts.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def verdict(mutation: Mutation) -> tuple[bool, str]:
    """(caught, why): caught is a test that passes on the sound tree and fails on the broken one."""
    with tempfile.TemporaryDirectory(prefix="apexpert-mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        sound = run_test(mutation, tree)
        if sound.returncode != 0:
            return False, f"the test does not pass on the sound tree: {sound.stdout[-300:]}"
        applied = apply(mutation, tree)
        if applied.returncode != 0:
            return False, f"does not apply: {applied.stderr.strip()}"
        broken = run_test(mutation, tree)
    if broken.returncode == 1:
        return True, "caught"
    return False, f"survived (pytest exit {broken.returncode}): {broken.stdout[-300:]}"


def main(names: list[str]) -> int:
    mutations = [m for m in all_mutations() if not names or m.path.stem in names]
    failures = 0
    for mutation in mutations:
        start = time.monotonic()
        caught, why = verdict(mutation)
        failures += not caught
        mark = "caught  " if caught else "SURVIVED"
        took = f"{time.monotonic() - start:.0f} s"
        print(f"{mark} {mutation.path.stem}: {mutation.breaks} ({took}) by {mutation.test}")
        if not caught:
            print(f"         {why}")
        sys.stdout.flush()
    print(f"{len(mutations) - failures} of {len(mutations)} mutations caught")
    return 1 if failures or not mutations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
