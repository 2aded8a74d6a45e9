"""Every cell of the table of reference numbers (docs/presets.md), by literal values."""

import re

import pytest

from deploy.cli.run.train import TrainArguments
from deploy.run.checks import check
from deploy.run.config import Config, ConfigError, with_values
from deploy.run.presets import DEFAULT, PRESETS, fitted, get_preset
from tests.helpers.root import ROOT

NAMES = (
    "paper-rainbow", "paper-dqn", "paper-dqn-nature", "der", "apex", "laptop",
    "dopamine-dqn", "dopamine-c51", "dopamine-rainbow", "dopamine-qr-dqn", "minatar-dqn",
)  # fmt: skip
COLUMNS = tuple(PRESETS[name] for name in NAMES)
C51 = ("c51", 51, -10.0, 10.0)
SCALAR, QUANTILES = ("scalar", "squared"), ("quantile", 200)
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
    values = {
        "c51": ("c51", n.num_atoms, n.v_min, n.v_max),
        "scalar": ("scalar", l.loss),
        "quantile": ("quantile", n.num_quantiles),
    }
    heads: dict[str, tuple[object, ...]] = {"dense": ("dense", n.dense_hidden_units)}
    return {
        "encoder, padding": (n.encoder, n.padding),
        "head": heads.get(n.head, (n.head, n.num_experts, n.expert_hidden_units)),
        "block": (n.residual, n.token_norm),
        "initial kernels": (n.initializer,),
        "width, tokens": (n.encoder_width_scale, n.tokens),
        "centered kernels": (n.centered_kernels,),
        "patches": (n.patch_width,),
        "values": values[n.values],
        "double, dueling, noisy": (l.double, n.dueling, n.noisy and n.noise_per),
        "prioritized": (r.prioritized, a.actor_priorities),
        "priority": (l.priority,),
        "exponents": (r.priority_exponent, r.importance_exponent),
        "n_step / gamma": (r.n_step, r.gamma),
        "batch, period": (l.batch_size, l.update_period),
        "target copy": (l.target_update_period,),
        "Adam": (l.learning_rate, l.adam_eps),
        "final learning rate": (l.final_learning_rate,),
        "warm-up / capacity": (r.min_size, r.capacity),
        "exploration": (x.kind, x.epsilon_start, x.epsilon_end, x.epsilon_decay_steps),
        "ladder": (x.ladder_base, x.ladder_exponent),
        "sticky, no-ops, life loss": (e.repeat_action_probability, e.noop_max, r.life_loss_terminates),
        "actors x envs, segment": (a.num_actors, a.envs_per_actor, r.segment_steps),
        "weights": (a.weights_poll_steps, l.publish_period),
        "total env steps": (config.run.total_env_steps,),
        "evaluated games": (config.evaluation.episodes,),
        "updates in flight": (l.updates_in_flight,),
    }


SCHEDULE, SILENT = (LINEAR, 1.0, 0.01, 250_000), (LINEAR, 0.0, 0.0, 250_000)
STICKY = (0.25, 0, False)
RAINBOWS = (True, True, "row")
PLAIN = (False, False, False)
TABLE: dict[str, tuple[object, ...]] = {
    # In the order of NAMES; None where a column cannot apply.
    "encoder, padding": (
        ("impala", "same"), ("impala", "same"), ("nature", "same"), ("nature", "same"), ("impala", "same"),
        ("nature", "valid"), *[("nature", "same")] * 4, ("minatar", "valid"),
    ),
    "head": (
        ("soft_moe", 4, 512), ("soft_moe", 8, 512), ("soft_moe", 8, 512), ("soft_moe", 4, 512),
        ("soft_moe", 8, 512), ("soft_moe", 4, 128), *[("dense", 512)] * 4, ("dense", 128),
    ),
    "block": (*[(False, False)] * 5, (True, True), *[(False, False)] * 5),
    "initial kernels": (*[("xavier",)] * 7, *[("fan_in",)] * 3, ("xavier",)),
    "width, tokens": (*[(1.0, "per_conv")] * 5, (0.5, "per_sample"), *[(1.0, "per_conv")] * 5),
    "centered kernels": (*[(False,)] * 5, (True,), *[(False,)] * 5),
    "patches": ((64,), (32,), (64,), (64,), (64,), *[None] * 6),
    "values": (
        C51, SCALAR, SCALAR, C51, C51, ("quantile", 51), SCALAR, C51, C51, QUANTILES, ("scalar", "huber"),
    ),
    "double, dueling, noisy": (
        RAINBOWS, PLAIN, PLAIN, RAINBOWS, (True, True, False), (False, True, False), *[PLAIN] * 5,
    ),
    "prioritized": (
        (True, False), (False, False), (False, False), (True, False), (True, True), (True, False),
        (False, False), (False, False), (True, False), (True, False), (False, False),
    ),
    "priority": (*[("loss",)] * 4, ("absolute_td",), *[("loss",)] * 6),
    "exponents": (
        (0.5, 0.5), None, None, (0.5, 0.5), (0.6, 0.4), (0.5, 0.0), None, None, (0.5, 0.5), (0.5, 0.0), None,
    ),
    "n_step / gamma": tuple((n, 0.99) for n in (3, 1, 1, 10, 3, 5, 1, 1, 3, 3, 1)),
    "batch, period": ((32, 4), (32, 4), (32, 4), (32, 1), (512, 64), (32, 8), *[(32, 4)] * 4, (32, 1)),
    "target copy": (*[(2_000,)] * 4, (2_500,), (500,), *[(2_000,)] * 4, (1_000,)),
    "Adam": (
        *[(6.25e-5, 1.5e-4)] * 3, (1e-4, 1.5e-4), (1e-4, 1.5e-4), (2e-4, 1e-6),
        (6.25e-5, 1.5e-4), (2.5e-4, 3.125e-4), (6.25e-5, 1.5e-4), (5e-5, 3.125e-4), (2.5e-4, 3.125e-4),
    ),
    "final learning rate": (*[(0.0,)] * 5, (1e-5,), *[(0.0,)] * 5),
    "warm-up / capacity": (
        *[(20_000, 1_000_000)] * 3, (1_600, 1_000_000), (50_000, 2_000_000), (5_000, 200_000),
        *[(20_000, 1_000_000)] * 4, (5_000, 100_000),
    ),
    "exploration": (
        SILENT, SCHEDULE, SCHEDULE, SILENT, None, (LINEAR, 1.0, 0.01, 50_000), *[SCHEDULE] * 4,
        (LINEAR, 1.0, 0.1, 100_000),
    ),
    "ladder": (*[None] * 4, (0.4, 7.0), *[None] * 6),
    "sticky, no-ops, life loss": (*[STICKY] * 3, (0.0, 29, True), *[STICKY] * 6, (0.1, 0, False)),
    "actors x envs, segment": (
        *[("auto", 8, 64)] * 3, (1, 1, 8), (16, 16, 64), (1, 8, 32), *[(1, 8, 64)] * 4, (1, 8, 16),
    ),
    "weights": (*[(1, 25)] * 3, (1, 10), (1, 25), (5, 25), *[(1, 25)] * 4, (5, 40)),
    "total env steps": (
        *[(50_000_000,)] * 3, (100_000,), (250_000_000,), (1_000_000,), *[(50_000_000,)] * 4,
        (5_000_000,),
    ),
    "evaluated games": (*[(30,)] * 3, (100,), *[(30,)] * 7),
    "updates in flight": ((1,),) * 11,
}  # fmt: skip


def test_the_table_names_every_cell() -> None:
    assert set(TABLE) == set(cells(COLUMNS[0]))


@pytest.mark.parametrize("row", TABLE)
def test_every_preset_has_the_cell_of_the_table(row: str) -> None:
    for config, expected in zip(COLUMNS, TABLE[row], strict=True):
        if expected is not None:
            assert cells(config)[row] == expected, config.run.preset


def test_presets_are_named_and_pass_their_own_checks() -> None:
    assert tuple(PRESETS) == NAMES
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
        assert (environment.frame_height, environment.frame_width) == (84, 84)
        assert config.evaluation.epsilon == 0.001
        if environment.env:
            continue
        assert (environment.stack, environment.full_action_space) == (4, False)
        assert config.replay.reward_clip == 1.0


def test_the_preset_for_minatar() -> None:
    config = PRESETS["minatar-dqn"]
    assert [name for name, each in PRESETS.items() if each.environment.env] == ["minatar-dqn"]
    environment = config.environment
    assert (environment.env, environment.stack, environment.full_action_space) == (
        "minatar:breakout",
        1,
        True,
    )
    assert config.replay.reward_clip == 0.0
    assert (config.learner.precision, config.actors.precision) == ("float32", "float32")
    assert config.environment.frames_per_env_step == 1


def test_an_atari_game_with_the_preset_for_minatar_is_refused() -> None:
    """It would be passed over; the game that `make train` names with every preset is no such wish."""
    preset = PRESETS["minatar-dqn"]
    with pytest.raises(ConfigError, match=r"--environment.game asterix: .* plays minatar:breakout; .* --env"):
        fitted(with_values(preset, environment__game="asterix"))
    named = with_values(preset, environment__game="Pong")
    assert fitted(named) == named
    other = with_values(preset, environment__env="", environment__game="asterix")
    assert fitted(other) == other, "Atari was asked for"


def test_a_noisy_preset_explores_by_its_noise_alone_and_others_do_not() -> None:
    for config in COLUMNS:
        explores = config.exploration.kind == "ladder" or config.exploration.epsilon_start == 1.0
        assert explores != config.network.noisy, config.run.preset


def test_another_head_leaves_out_what_the_presets_own_head_has() -> None:
    laptop = PRESETS["laptop"]
    dense = fitted(with_values(laptop, network__head="dense"))
    assert dense == with_values(
        laptop, network__head="dense", network__residual=False, network__token_norm=False
    )
    check(dense)
    assert fitted(laptop) == laptop
    sparse = with_values(laptop, network__head="top_k_moe")
    assert fitted(sparse) == sparse
    wrong = with_values(PRESETS["dopamine-dqn"], network__residual=True)
    assert fitted(wrong) == wrong, "what the preset does not have was asked for, and is refused"


def test_other_values_leave_out_what_the_presets_own_values_have() -> None:
    laptop, dqn = PRESETS["laptop"], PRESETS["dopamine-dqn"]
    for values in ("c51", "scalar"):
        other = fitted(with_values(laptop, network__values=values))
        assert other == with_values(laptop, network__values=values)
        check(other)
    c51 = fitted(with_values(dqn, network__values="c51"))
    assert c51 == with_values(dqn, network__values="c51", learner__loss="huber")
    check(c51)


@pytest.mark.parametrize("name", ["paper-rainbow", "der"])
def test_a_noisy_preset_without_its_noise_explores_by_epsilon(name: str) -> None:
    quiet = fitted(with_values(PRESETS[name], network__noisy=False))
    assert cells(quiet)["exploration"] == SCHEDULE
    check(quiet)
    given = with_values(PRESETS[name], network__noisy=False, exploration__epsilon_end=0.1)
    assert cells(fitted(given))["exploration"] == (LINEAR, 1.0, 0.1, 250_000)
    assert fitted(PRESETS[name]) == PRESETS[name]


def test_the_commands_help_names_them_all() -> None:
    assert set(NAMES) <= set(re.findall(r"[a-z][a-z0-9-]+", TrainArguments.__doc__ or ""))


def test_an_unknown_preset_is_named_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"--preset lapto: .*allowed are .*; did you mean laptop\?"):
        get_preset("lapto")


def test_the_document_has_a_column_for_each() -> None:
    text = (ROOT / "docs" / "presets.md").read_text()
    assert set(re.findall(r"`((?:paper|dopamine|minatar)-[a-z0-9-]+|der|apex|laptop)`", text)) == set(NAMES)
