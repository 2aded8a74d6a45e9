"""Every cell of the table of reference numbers (shared design, section 7), by literal values."""

import pytest

from deploy.checks import check
from deploy.config import Config, ConfigError
from deploy.presets import APEX, DEFAULT, DER, LAPTOP, PAPER_DQN, PAPER_RAINBOW, PRESETS, get_preset

COLUMNS = (PAPER_RAINBOW, PAPER_DQN, DER, APEX, LAPTOP)
C51 = ("c51", 51, -10.0, 10.0)
LINEAR = "linear"


def cells(config: Config) -> dict[str, tuple[object, ...]]:
    n, r, e, x, a, l = (  # noqa: E741
        config.network,
        config.replay,
        config.environment,
        config.exploration,
        config.actors,
        config.learner,
    )
    return {
        "encoder, padding": (n.encoder, n.padding),
        "head": (n.head, n.num_experts, n.expert_hidden_units),
        "loss": (n.values, n.num_atoms, n.v_min, n.v_max),
        "double, dueling, noisy": (l.double, n.dueling, n.noisy),
        "prioritized": (r.prioritized, a.actor_priorities),
        "exponents": (r.priority_exponent, r.importance_exponent),
        "n_step / gamma": (r.n_step, r.gamma),
        "batch, period": (l.batch_size, l.update_period),
        "target copy": (l.target_update_period,),
        "Adam": (l.learning_rate, l.adam_eps),
        "warm-up / capacity": (r.min_size, r.capacity),
        "exploration": (x.kind, x.epsilon_start, x.epsilon_end, x.epsilon_decay_steps),
        "ladder": (x.ladder_base, x.ladder_exponent),
        "sticky, life loss": (e.repeat_action_probability, r.life_loss_terminates),
        "actors x envs, segment": (a.num_actors, a.envs_per_actor, r.segment_steps),
        "total env steps": (config.run.total_env_steps,),
        "updates in flight": (l.updates_in_flight,),
    }


PAPER_SCHEDULE = (LINEAR, 1.0, 0.01, 250_000)
TABLE: dict[str, tuple[object, ...]] = {
    # row: paper-rainbow, paper-dqn, der, apex, laptop; None where a column does not say (or cannot apply)
    "encoder, padding": (
        ("impala", "same"),
        ("nature", "same"),
        ("nature", "same"),
        ("impala", "same"),
        ("nature", "valid"),
    ),
    "head": (
        ("soft_moe", 4, 512),
        ("soft_moe", 8, 512),
        ("soft_moe", 4, 512),
        ("soft_moe", 8, 512),
        ("soft_moe", 4, 512),
    ),
    "loss": (C51, None, C51, C51, C51),
    "double, dueling, noisy": (
        (True, True, True),
        (False, False, False),
        (True, True, True),
        (True, True, False),
        (True, True, False),
    ),
    "prioritized": ((True, False), (False, False), (True, False), (True, True), (True, False)),
    "exponents": ((0.5, 0.5), None, (0.5, 0.5), (0.6, 0.4), (0.5, 0.5)),
    "n_step / gamma": ((3, 0.99), (1, 0.99), (10, 0.99), (3, 0.99), (3, 0.99)),
    "batch, period": ((32, 4), (32, 4), (32, 1), (512, 64), (32, 8)),
    "target copy": ((2_000,), (2_000,), (2_000,), (2_500,), (1_000,)),
    "Adam": ((6.25e-5, 1.5e-4), (6.25e-5, 1.5e-4), (1e-4, 1.5e-4), (1e-4, 1.5e-4), (1e-4, 1.5e-4)),
    "warm-up / capacity": (
        (20_000, 1_000_000),
        (20_000, 1_000_000),
        (1_600, 1_000_000),
        (50_000, 2_000_000),
        (5_000, 200_000),
    ),
    "exploration": (
        PAPER_SCHEDULE,
        PAPER_SCHEDULE,
        (LINEAR, 1.0, 0.01, 2_000),
        None,
        (LINEAR, 1.0, 0.01, 50_000),
    ),
    "ladder": (None, None, None, (0.4, 7.0), None),
    "sticky, life loss": ((0.25, False), (0.25, False), (0.0, True), (0.25, False), (0.25, False)),
    "actors x envs, segment": ((4, 8, 64), (4, 8, 64), (1, 1, 8), (16, 16, 64), (1, 8, 32)),
    "total env steps": ((50_000_000,), (50_000_000,), (100_000,), (250_000_000,), (1_500_000,)),
    "updates in flight": ((1,), (1,), (1,), None, None),
}


def test_the_table_names_every_cell() -> None:
    assert set(TABLE) == set(cells(LAPTOP))


@pytest.mark.parametrize("row", TABLE)
def test_every_preset_has_the_cell_of_the_table(row: str) -> None:
    for config, expected in zip(COLUMNS, TABLE[row], strict=True):
        if expected is not None:
            assert cells(config)[row] == expected, config.run.preset


def test_dqn_has_the_huber_loss_and_apex_the_ladder() -> None:
    assert PAPER_DQN.network.values == "scalar"
    assert APEX.exploration.kind == "ladder"


def test_presets_are_named_and_pass_their_own_checks() -> None:
    assert list(PRESETS) == ["paper-rainbow", "paper-dqn", "der", "apex", "laptop"]
    assert DEFAULT == "laptop"
    for name, config in PRESETS.items():
        assert get_preset(name) is config
        assert config.run.preset == name
        check(config)


def test_settings_that_all_presets_share() -> None:
    for config in COLUMNS:
        environment = config.environment
        assert environment.frame_skip == 4
        assert environment.max_frames_per_episode == 108_000
        assert (environment.noop_max, environment.stack, environment.full_action_space) == (0, 4, False)
        assert (environment.frame_height, environment.frame_width) == (84, 84)
        assert config.replay.reward_clip == 1.0
        assert config.evaluation.epsilon == 0.001


def test_an_unknown_preset_is_named_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"--preset lapto: .*allowed are .*; did you mean laptop\?"):
        get_preset("lapto")
