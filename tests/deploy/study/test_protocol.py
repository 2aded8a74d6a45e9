import dataclasses

import numpy as np
import pytest

from deploy.run.config import Config, with_values
from deploy.run.presets import APEX, DER, DOPAMINE_DQN, LAPTOP
from deploy.study.errors import ProtocolError
from deploy.study.statistics.protocol import (
    Protocol,
    Row,
    by_protocol,
    one_protocol,
    protocol_of,
    score_matrices,
)

EVALUATED = protocol_of(Config(), games="evaluation", checkpoint="final")


def row(arm="dense", game="pong", seed=0, score=1.0, protocol=EVALUATED, run=""):
    return Row(arm, game, seed, score, protocol, run or f"{arm}-{game}-{seed}")


def test_a_protocol_is_read_from_the_runs_configuration():
    config = with_values(
        LAPTOP,
        environment__repeat_action_probability=0.0,
        environment__frame_skip=3,
        environment__max_frames_per_episode=18_000,
        environment__noop_max=30,
        environment__full_action_space=True,
        replay__life_loss_terminates=True,
        evaluation__epsilon=0.05,
    )
    assert protocol_of(config, games="evaluation", checkpoint="best") == Protocol(
        sticky_actions=0.0,
        frame_skip=3,
        cap=18_000,
        noop_max=30,
        full_action_space=True,
        life_loss_terminates=True,
        epsilon=(0.05, 0.05),
        checkpoint="best",
        games="evaluation",
    )


CHANGES = {
    "environment__repeat_action_probability": 0.0,
    "environment__frame_skip": 5,
    "environment__max_frames_per_episode": 20_000,
    "environment__noop_max": 30,
    "environment__full_action_space": True,
    "replay__life_loss_terminates": True,
    "evaluation__epsilon": 0.01,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_of_the_games_makes_another_protocol(name):
    other = protocol_of(
        with_values(Config(), **{name: CHANGES[name]}), games="evaluation", checkpoint="final"
    )
    assert len(EVALUATED.differences(other)) == 1


def test_arms_and_games_do_not():
    other = with_values(Config(), network__head="dense", environment__game="boxing", run__seed=7)
    assert protocol_of(other, games="evaluation", checkpoint="final") == EVALUATED


def test_where_the_number_came_from_makes_another_protocol():
    best = protocol_of(Config(), games="evaluation", checkpoint="best")
    training = protocol_of(Config(), games="training", checkpoint="final")
    assert EVALUATED.differences(best) == {"checkpoint": ("final", "best")}
    assert training.games == "training"
    assert len({EVALUATED, best, training}) == 3


def test_epsilon_is_that_of_the_games_that_were_scored():
    assert protocol_of(DOPAMINE_DQN, games="training", checkpoint="final").epsilon == (0.01, 0.01)
    assert protocol_of(DER, games="training", checkpoint="final").epsilon == (0.0, 0.0)
    lowest, highest = protocol_of(APEX, games="training", checkpoint="final").epsilon
    assert (lowest, highest) == (pytest.approx(0.4**8), 0.05), "nearly greedy episodes alone"
    flat = with_values(APEX, exploration__ladder_exponent=0.0)
    assert protocol_of(flat, games="training", checkpoint="final").epsilon == (0.4, 0.4)
    asked = protocol_of(Config(), games="evaluation", checkpoint="final", epsilon=0.02)
    assert asked.epsilon == (0.02, 0.02)


def test_another_environment_decides_for_itself():
    config = with_values(Config(), environment__env="catch:make", environment__repeat_action_probability=0.5)
    other = with_values(config, environment__repeat_action_probability=0.0)
    found = protocol_of(config, games="evaluation", checkpoint="final")
    assert found == protocol_of(other, games="evaluation", checkpoint="final")
    assert (found.sticky_actions, found.frame_skip, found.cap, found.full_action_space) == (None,) * 4


def test_minatar_has_our_sticky_actions_cap_and_action_set():
    config = with_values(Config(), environment__env="minatar:breakout", environment__full_action_space=True)
    found = protocol_of(config, games="evaluation", checkpoint="final")
    assert (found.sticky_actions, found.cap, found.full_action_space) == (0.25, 108_000, True)
    assert (found.frame_skip, found.noop_max) == (None, None)


def test_a_protocol_is_one_line_in_words():
    assert str(EVALUATED) == (
        "sticky actions 0.25, frame skip 4, cap 108000, noop max 0, full action space no,"
        " life loss terminates no, epsilon 0.001, checkpoint final, games evaluation"
    )
    assert "epsilon 0.01 to 0.05" in str(dataclasses.replace(EVALUATED, epsilon=(0.01, 0.05)))
    assert "cap the environment's own" in str(dataclasses.replace(EVALUATED, cap=None))


def test_rows_are_grouped_by_protocol_and_never_mixed():
    other = dataclasses.replace(EVALUATED, epsilon=(0.01, 0.01), games="training")
    rows = [row(), row(seed=1, protocol=other), row(seed=2)]
    assert by_protocol(rows) == {EVALUATED: [rows[0], rows[2]], other: [rows[1]]}
    assert one_protocol([rows[0], rows[2]]) == EVALUATED
    for refuse in (one_protocol, score_matrices):
        with pytest.raises(ProtocolError) as refused:
            refuse(rows)
        assert str(refused.value) == (
            "scores of 2 protocols are not compared: epsilon is 0.001 in dense-pong-0 and 0.01 in"
            " dense-pong-1; games is evaluation in dense-pong-0 and training in dense-pong-1"
        )
    with pytest.raises(ProtocolError, match="no rows"):
        one_protocol([])


def test_rows_become_a_matrix_an_arm_with_gaps_where_runs_are_missing():
    rows = [
        row("soft", "pong", 1, 4.0),
        row("dense", "pong", 5, 2.0),
        row("dense", "boxing", 1, 1.0),
        row("dense", "pong", 1, 3.0),
    ]
    games, arms = score_matrices(rows)
    assert (games, list(arms)) == (("boxing", "pong"), ["soft", "dense"])
    np.testing.assert_array_equal(arms["dense"], [[1.0, 3.0], [np.nan, 2.0]])
    np.testing.assert_array_equal(arms["soft"], [[np.nan, 4.0]])


def test_two_runs_of_the_same_arm_game_and_seed_are_refused():
    rows = [row(run="a"), row(run="b", score=2.0)]
    with pytest.raises(ProtocolError, match=r"^a and b are both arm dense, game pong, seed 0$"):
        score_matrices(rows)
