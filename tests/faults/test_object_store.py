"""A run's checkpoints in an object store: the store goes away, and another machine goes on from there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.deadline import until
from tests.helpers.object_store import ObjectStore, object_store
from tests.helpers.runs.catch_runs import flags
from tests.helpers.runs.commands import NAME, SHORT, Terminal

URL = "s3://bucket/prefix"
# Long enough not to end by itself while the store comes and goes.
LONG: dict[str, dict[str, Any]] = SHORT | {
    "run": SHORT["run"] | {"total_env_steps": 1_000_000, "checkpoints_to": URL},
    "learner": SHORT["learner"] | {"checkpoint_period": 10_000_000, "checkpoint_seconds": 2.0},
}


@dataclass(frozen=True)
class Machine(Terminal):
    """A terminal on a machine that finds the object store."""

    store: ObjectStore

    def environment(self) -> dict[str, str]:
        return super().environment() | self.store.environment

    def updates(self) -> float:
        return float(self.status()["metrics"].get("progress/updates", 0.0))

    def uploads(self) -> float:
        return float(self.status()["metrics"].get("checkpoint/uploads", 0.0))


def manifests(store: ObjectStore) -> list[str]:
    return [key for key in store.files() if key.count("/") == 2 and "update-" in key]


@pytest.mark.faults_long
def test_the_store_goes_away_and_another_machine_resumes_from_it(tmp_path: Path) -> None:
    with object_store(tmp_path) as store:
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        here = Machine(tmp_path / "here", store)
        with here.started("train", "--preset", "laptop", *flags(LONG)) as command:
            printed = command.prints("starting the run's supervisor")
            assert f"copied to {URL}/{NAME}; on another machine, apexpert resume {URL}/{NAME}" in printed
            until(lambda: here.folder.status_path.exists() and here.uploads() >= 1, "a first copy", 300)
            store.kill()
            until(lambda: "cannot be copied elsewhere" in command.printed(), "it says so", 300)
            before = here.updates()
            until(lambda: here.updates() > before + 50, "training goes on", 300)
            uploads = here.uploads()
            store.start()
            until(lambda: here.uploads() >= uploads + 2, "copied to the store that is back", 600)
            assert "checkpoints are copied elsewhere again" in command.printed()
            stopped = here.run("stop", NAME, seconds=300)
            assert stopped.returncode == 0, stopped.stderr
        # The last checkpoint was copied before the run ended.
        newest = manifests(store)[-1]
        checkpoint = here.folder.newest_checkpoint()
        assert checkpoint is not None
        assert newest.endswith(f"{checkpoint.name}.json")
        # As if the machine had died while it copied the last one.
        older = manifests(store)[-2]
        [tensors] = [key for key in store.files() if checkpoint.name in key and key.endswith("safetensors")]
        store.remove(tensors)
        there = Machine(tmp_path / "there", store)
        words = ("resume", f"{URL}/{NAME}", "--replay.shards", "3", "--actors", "2", "--detach")
        with there.ending_ray():
            resumed = there.run(*words, seconds=300)
            assert resumed.returncode == 0, resumed.stderr
            assert f"passing over {URL}/{NAME}/{checkpoint.name}" in resumed.stdout
            at = int(older.rpartition("-")[2].removesuffix(".json"))
            until(lambda: there.updates() > at + 10, "it learns on", 300)
            status = there.status()
            assert len(status["actors"]) == 2
            # How many there are depends on what actors wrote while the learner restored.
            assert status["metrics"]["replay/unearned"] > 0
            assert "and earn none themselves" in (there.folder.log_path.read_text())
            assert there.run("stop", NAME, seconds=300).returncode == 0
        # The first machine comes back: its run belongs to the other one now.
        back = here.run("resume", NAME)
        assert back.returncode == 2
        assert f"was resumed from {URL}/{NAME} on" in back.stderr


@pytest.mark.faults_long
def test_no_password_is_in_rays_storage(tmp_path: Path) -> None:
    storage = tmp_path / "gcs"
    environment = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(storage)}

    @dataclass(frozen=True)
    class Durable(Terminal):
        def environment(self) -> dict[str, str]:
            return super().environment() | environment

    terminal = Durable(tmp_path)
    changes = SHORT | {"run": SHORT["run"] | {"total_env_steps": 1_000_000}}
    with terminal.started("train", "--preset", "laptop", *flags(changes)):
        until(
            lambda: (
                terminal.folder.status_path.exists()
                and terminal.status()["metrics"].get("progress/updates", 0) > 0
            ),
            "it learns",
            300,
        )
        password = (terminal.folder.replay / "password").read_bytes()
        stored = b"".join(path.read_bytes() for path in storage.rglob("*") if path.is_file())
        if not stored:
            pytest.skip("this Ray keeps its state in memory (rocksdb: 2.57 and later)")
        # What makes the supervisor is in there, so what makes actors and learner is too.
        assert str(terminal.folder.path).encode() in stored
        assert b"ActorRole" in stored
        assert password not in stored
        assert terminal.run("stop", NAME, seconds=300).returncode == 0
