"""`apexpert bands`: rows, JSON and picture of a run, the power of a game, and one line for each mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.reports.seeds.expectation import agent_of
from deploy.run.config import Config, with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import DER, DOPAMINE_QR_DQN, DOPAMINE_RAINBOW, LAPTOP, PAPER_DQN, PAPER_RAINBOW

W = 250_000
BOXING = with_values(DOPAMINE_RAINBOW, environment__game="Boxing", run__name="r", run__runs_dir="runs")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(env_steps: int, value: float, leg: int = 0) -> str:
    return json.dumps({"env_steps": env_steps, "return": value, "length": 1_000, "leg": leg}) + "\n"


def played(config: Config = BOXING) -> RunFolder:
    """Two windows like the published; resumed once from env step 300,000, beyond which it had played."""
    folder = RunFolder.create(config)
    first = [line(W // 2, -5.0), line(W, -6.0)]
    second = [line(W + 1, -31.0), line(300_000, -30.0), line(310_000, 77.0), line(2 * W, -32.0, 1)]
    folder.episodes_path.write_text("".join([*first, *second, '{"env_steps": 1, "retu']))
    folder.write_json("legs.json", [{"env_steps": 0}, {"env_steps": 300_000}])
    folder.write_json("fleet.json", {"target_actors": 1, "next_incarnation": {"0": 2}})
    folder.write_json("status.json", {"state": "finished", "metrics": {"progress/env_steps": 2.0 * W}})
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["bands", *words]) == 0
    return capsys.readouterr().out


def test_rows_and_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    folder = played()
    out = told(capsys, "r").splitlines()
    assert out[0] == "r: Boxing, beside Dopamine Rainbow (CNN)"
    assert out[2].split()[:5] == ["0", "to", "1", "2", "-5.50"]
    assert out[2].split()[-1] == "inside"
    assert out[3].split()[:5] == ["1", "to", "2", "3", "-31.00"]
    assert out[4].split()[:3] == ["whole", "ones", "-18.25"]
    assert out[5] == (
        "  5 episodes count; not among them: 1 beyond a checkpoint that a resume went back to,"
        " 8 cut by a resume or an actor's end, 8 cut by the run's end"
    )
    assert out[6] == f"  picture {folder.path / 'bands.png'}"
    assert (folder.path / "bands.png").stat().st_size > 5_000


@pytest.mark.parametrize(("given", "written"), [("a/b", "a/b.png"), ("there", "there/bands.png")])
def test_the_picture_is_where_it_is_said_to_be(
    given: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").mkdir()
    played()
    assert f"  picture {written}\n" in told(capsys, "r", "--output", given)
    assert Path(written).stat().st_size > 5_000


def test_json_draws_only_when_told_where(capsys: pytest.CaptureFixture[str], in_tmp: Path) -> None:
    folder = played()
    told_json: dict[str, Any] = json.loads(told(capsys, "r", "--json"))
    assert not (folder.path / "bands.png").exists()
    first, second = told_json["windows"]
    assert (first["mean"], first["seeds"], first["verdict"]) == (
        -5.5,
        [-6.2, -5.9, -5.9, -4.8, -5.6],
        "inside",
    )
    assert (second["episodes"], second["env_steps"], second["complete"]) == (3, [W, 2 * W], True)
    assert told_json["overall"]["mean"] == -18.25
    counts = {name: told_json[name] for name in ("episodes", "dropped", "cut_by_resume", "cut_by_end")}
    assert counts == {"episodes": 5, "dropped": 1, "cut_by_resume": 8, "cut_by_end": 8}
    json.loads(told(capsys, "r", "--json", "--output", "here.png"))
    assert (in_tmp / "here.png").exists()


def test_another_agent_and_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    played()
    assert "beside Dopamine QR-DQN (CNN)" in told(capsys, "r", "--agent", "quantile")
    assert "beside Dopamine IQN (Impala)" in told(capsys, "r", "--agent", "iqn", "--encoder", "impala")


def test_a_run_at_work_is_not_judged_beyond_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    folder = played()
    folder.episodes_path.write_text(line(1, 0.0) + line(W + 5, 0.0) + line(W + 6, 0.0))
    folder.write_json("status.json", {"state": "running", "metrics": {"progress/env_steps": W + 9.0}})
    folder.write_json("legs.json", [{"env_steps": 0}])
    out = told(capsys, "r").splitlines()
    assert out[3].split()[-2:] == ["not", "whole"]
    assert out[-2].endswith("8 still open")


def test_power_says_where_a_failing_run_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--power", "Pong", "--agent", "quantile", "--windows", "4").splitlines()
    assert out[0] == "Pong: Dopamine QR-DQN (CNN), 5 seeds"
    assert len(out) == 2 + 4 + 2
    assert out[5].split()[:8] == ["3", "to", "4", "7.34", "-4.60", "to", "19.28", "below"]
    assert out[6] == "  a run frozen at its first window falls outside in window 4"
    assert out[7] == "  a run with half the gain falls outside in window 4"
    rows = json.loads(told(capsys, "--power", "krull", "--agent", "rainbow", "--windows", "3", "--json"))
    assert [row["window"]["frozen"] for row in rows["windows"]] == ["inside", "below", "below"]


def test_nothing_is_seen_before_anything_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--power", "Pong", "--agent", "rainbow", "--windows", "1")
    assert "falls outside in no window" in out


MISTAKES = [
    ([], 2, "RUN is missing"),
    (["r", "--power", "Pong", "--agent", "dqn"], 2, "--power Pong: is of a game alone; leave 'r' out"),
    (["--power", "Pong"], 2, "--agent: say whose seeds"),
    (["--power", "Pnog", "--agent", "dqn"], 2, "--power Pnog: no published seeds of this game"),
    (["--power", "Pong", "--agent", "dqm"], 2, "--agent dqm: no published agent; allowed are dqn, c51"),
    (["--power", "Pong", "--agent", "dqn", "--windows", "0"], 2, "--windows 0: must be 1 or more"),
    (["--power", "Pong", "--agent", "dqn", "--output", "x.png"], 2, "--output x.png: --power draws no"),
    (["r", "--encoder", "resnet"], 2, "--encoder: 'resnet' is not allowed"),
    (["none"], 2, "no run 'none'"),
    (["r", "--output", "nowhere/x.gifs"], 2, "--output nowhere/x.gifs: must end in .png or .pdf"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "why"), MISTAKES, ids=[" ".join(words) for words, _, _ in MISTAKES]
)
def test_a_mistake_is_one_line(
    words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    played()
    before = sorted(Path().iterdir())
    assert main(["bands", *words]) == code
    assert sorted(Path().iterdir()) == before
    error = capsys.readouterr().err
    assert error.startswith("apexpert: ")
    assert error.count("\n") == 1
    assert why in error


def test_runs_that_cannot_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    folder = played(with_values(BOXING, replay__n_step=5))
    assert main(["bands", "r"]) == 2
    assert "--agent: r has the values, n and replay of no published agent" in capsys.readouterr().err
    folder.save_config(with_values(BOXING, environment__env="tests.helpers.catch:make"))
    assert main(["bands", "r"]) == 2
    assert "tests.helpers.catch:make: no published seeds of this game" in capsys.readouterr().err
    folder.save_config(with_values(BOXING, network__encoder="mine:encoder"))
    assert main(["bands", "r"]) == 2
    assert "--encoder: mine:encoder is no published one" in capsys.readouterr().err
    folder.save_config(BOXING)
    folder.episodes_path.write_text("")
    assert main(["bands", "r"]) == 1
    assert "episodes.jsonl: no episode has ended yet" in capsys.readouterr().err
    folder.episodes_path.unlink()
    assert main(["bands", "r"]) == 1
    assert "episodes.jsonl: made by an older version" in capsys.readouterr().err


def test_a_record_that_begins_late_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    folder = played()
    folder.write_json("legs.json", [{"env_steps": 0 + W}, {"env_steps": 300_000}])
    out = told(capsys, "r")
    assert "no record of the episodes of the first 250,000 env steps" in out
    assert "0 to 1" not in out


@pytest.mark.parametrize(
    ("config", "agent"),
    [
        (LAPTOP, ""),
        (DOPAMINE_RAINBOW, "rainbow"),
        (PAPER_RAINBOW, "rainbow"),
        (PAPER_DQN, "dqn"),
        (with_values(DOPAMINE_RAINBOW, replay__n_step=1, replay__prioritized=False), "c51"),
        (DER, ""),
        (DOPAMINE_QR_DQN, "qr-dqn"),
        (with_values(DOPAMINE_QR_DQN, network__values="c51"), ""),
    ],
)
def test_the_agent_that_a_run_is_like(config: Config, agent: str) -> None:
    assert agent_of(config) == agent
