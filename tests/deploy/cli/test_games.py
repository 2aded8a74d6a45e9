"""The list of games: every one can be made, with what is known about it."""

import json

import pytest

from deploy.cli.main import main


def test_a_game_has_its_actions_scores_and_published_agents(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.environments.list_games", lambda: ("othello", "pong"))
    assert main(["games", "--json"]) == 0
    othello, pong = json.loads(capsys.readouterr().out)
    assert othello == {"game": "othello", "actions": 10, "random": None, "human": None, "published": []}
    published = [agent for agent in pong.pop("published") if "CNN" in agent]
    assert pong == {"game": "pong", "actions": 6, "random": -20.7, "human": 14.6}
    assert published == ["DQN (CNN)", "C51 (CNN)", "Rainbow (CNN)", "QR-DQN (CNN)", "IQN (CNN)"]
    assert main(["games"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["othello", "10", "-", "-", "-"]
    assert lines[2].split()[:4] == ["pong", "6", "-20.7", "14.6"]
    assert "minatar:breakout" in lines[3]
