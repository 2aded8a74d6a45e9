"""`apexpert cluster check`: what is found on the nodes, and what is called to be mended."""

import dataclasses
import fcntl
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from deploy.fleet.errors import WrongFlag
from deploy.fleet.ray import look, node_check
from deploy.fleet.ray.node_check import Node, to_mend
from tests.helpers.runs.scripted_run import run_line

FOUND: dict[str, Any] = {
    "host": "a",
    "python": "3.11.7",
    "ray": "2.60.0",
    "apexpert": "0.1.0",
    "folder": look.SHARED,
    "commit": "0123456789abcdef",
    "findings": [("ok", "python", "3.11.7", ""), ("ok", "open files", "65536 (ulimit -n), up to 65536", "")],
    "cores": 4,
    "gpus": [],
    "cuda": "",
    "redis": "",
}
HERE = Node("10.0.0.1", {"CPU": 4.0}, True, FOUND)


def there(resources: dict[str, float] | None = None, **found: Any) -> Node:
    return Node("10.0.0.2", {"CPU": 4.0} if resources is None else resources, False, FOUND | found)


def mended(*nodes: Node) -> list[str]:
    return [f"{level} {name}: {found}" for level, name, found, _ in to_mend(nodes, Path("/shared/runs"))]


def test_nodes_that_are_alike_need_nothing() -> None:
    assert mended(HERE, there(python="3.11.9")) == []


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (there(python="3.12.1"), "fail 10.0.0.2: Python 3.12.1, and 3.11.7 here"),
        (there(ray="2.59.0"), "fail 10.0.0.2: Ray 2.59.0, and 2.60.0 here"),
        (there(apexpert="0.2.0"), "fail 10.0.0.2: Apexpert 0.2.0 01234567, and 0.1.0 01234567 here"),
        (
            there(commit="fedcba9876543210+"),
            "fail 10.0.0.2: Apexpert 0.1.0 fedcba98+, and 0.1.0 01234567 here",
        ),
        (there(commit=None), "fail 10.0.0.2: Apexpert 0.1.0, and 0.1.0 01234567 here"),
        (there(apexpert="none", error="No module"), "fail 10.0.0.2: Apexpert is not installed"),
        (there(error="ImportError: x"), "fail 10.0.0.2: Apexpert fails there: ImportError: x"),
        (there(folder=look.MISSING), "fail 10.0.0.2: /shared/runs is not the same folder there"),
        (there(folder=look.UNLOCKED), "fail 10.0.0.2: locks in /shared/runs do not work across nodes"),
        (there(folder="Permission denied"), "fail 10.0.0.2: /shared/runs: Permission denied"),
        (there(redis="--replay.urls: none answers"), "fail 10.0.0.2: --replay.urls: none answers"),
        (there(gpus=["A"]), "warn 10.0.0.2: 1 GPUs that Ray does not offer"),
        (there({"CPU": 1.0, "GPU": 1.0}), "warn 10.0.0.2: Ray offers 1 GPUs, and nvidia-smi finds none"),
        (
            there({"CPU": 1.0, "GPU": 1.0}, gpus=["A"]),
            "fail 10.0.0.2: torch is built without CUDA, and there is a GPU",
        ),
        (
            there(findings=[("warn", "open files", "1024 (ulimit -n), up to 1024", "run: ulimit -n 65536")]),
            "warn 10.0.0.2: open files: 1024 (ulimit -n), up to 1024",
        ),
        (
            Node("10.0.0.2", {"CPU": 4.0}, False, {"error": "no answer within 120 s", "silent": True}),
            "fail 10.0.0.2: no answer within 120 s",
        ),
    ],
)
def test_what_differs_or_is_missing_is_named(node: Node, expected: str) -> None:
    assert mended(HERE, node) == [expected]


def test_only_nodes_for_learners_need_the_folder_of_runs() -> None:
    without = {"folder": look.MISSING}
    assert mended(HERE, there({}, **without)) == [], "a node without CPUs has no part of a run"
    card = {"gpus": ["A"], "cuda": "12"}
    gpu = dataclasses.replace(HERE, resources={"CPU": 4.0, "GPU": 1.0}, found=FOUND | card)
    assert mended(gpu, there(**without)) == [], "actors alone"
    meant = dataclasses.replace(HERE, resources={"CPU": 4.0, "learner": 1.0})
    assert mended(meant, there({"CPU": 4.0, "GPU": 1.0}, **without, **card)) == []
    assert len(mended(gpu, there({"CPU": 1.0, "GPU": 1.0}, **without, **card))) == 1


def test_a_node_sees_whether_the_folder_is_shared_and_its_locks_work(tmp_path: Path) -> None:
    with node_check._held_file(tmp_path / "not" / "yet") as (probe, nonce):
        assert probe.parent == tmp_path, "the nearest folder that is there"
        assert look.look(str(probe), nonce, [])["folder"] == look.SHARED
        assert look.look(str(probe), "another", [])["folder"] == look.MISSING, "another folder of that name"
        assert look.look(str(tmp_path / "none"), nonce, [])["folder"] == look.MISSING
        with probe.open() as file:
            # As on storage that keeps locks to the node that takes them.
            fcntl.flock(file, fcntl.LOCK_UN)
        assert list(tmp_path.iterdir()) == [probe]
    assert list(tmp_path.iterdir()) == []
    free = tmp_path / "free"
    free.write_text("nonce")
    assert look.look(str(free), "nonce", [])["folder"] == look.UNLOCKED


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(WrongFlag, match="Permission denied"), node_check._held_file(tmp_path):
        pytest.fail("there is no file")


def test_a_server_that_does_not_answer_is_found(tmp_path: Path) -> None:
    found = look.look(str(tmp_path), "", ["redis://:secret@127.0.0.1:1"])
    assert found["redis"].startswith("--replay.urls: ")
    assert "secret" not in found["redis"]
    assert "none.txt: No such file" in look.look(str(tmp_path), "", ["@none.txt"])["redis"]


def test_a_node_without_this_apexpert_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(look)
    sent = cloudpickle.dumps(look.look)
    cloudpickle.unregister_pickle_by_value(look)
    for name in ("deploy.fleet.ray.look", "deploy.run.config"):
        monkeypatch.setitem(sys.modules, name, None)
    found = cloudpickle.loads(sent)(str(tmp_path / "none"), "", [])
    assert found["python"].startswith("3.")
    assert found["folder"] == look.MISSING
    assert found["error"].startswith("ModuleNotFoundError")


def test_the_suites_own_ray_can_train(
    shared_ray: str, in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    code, out, err = run_line(capsys, "cluster", "check", "--ray-address", shared_ray)
    lines = out.splitlines()
    assert (code, err) == (0, ""), out
    assert lines[0] == f"asking the nodes of the Ray at {shared_ray} ..."
    assert lines[1].split()[:4] == ["node", "python", "ray", "apexpert"]
    assert "(here)" in lines[2]
    assert lines[2].split()[-1] == "shared"
    assert lines[-1] == "this cluster can train"
    assert list(in_tmp.iterdir()) == []


def test_without_an_address_it_asks_for_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run_line(capsys, "cluster", "check")
    assert code == 2
    assert "--ray-address: name the cluster" in err
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, _, err = run_line(capsys, "cluster", "check")
    assert code == 2
    assert "--ray-address 127.0.0.1:1 (from $RAY_ADDRESS): nothing answers there" in err
    assert run_line(capsys, "cluster")[0] == 2
