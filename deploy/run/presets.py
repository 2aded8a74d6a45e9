"""Named configurations: those of the papers, the published baselines, and a start for a laptop.

Each is written as its difference from another one; docs/presets.md lists the source of every number and all
deviations. Fields that no preset names have the defaults of their dataclass.
"""

from collections.abc import Container
from typing import Any

from actors.config import ActorConfig, EnvironmentConfig, ExplorationConfig
from deploy.run.checks import ONLY_WITH_HEADS, check_game, near_matches
from deploy.run.config import Config, ConfigError, RunConfig, leaves, with_values
from learner.config import LearnerConfig
from models.config import NetworkConfig
from replay.config import ReplayConfig

DEFAULT = "laptop"


def _preset(name: str, like: Config, **changes: Any) -> Config:
    return with_values(like, run__preset=name, **changes)


DOPAMINE_RAINBOW = Config(
    run=RunConfig(preset="dopamine-rainbow", total_env_steps=50_000_000),
    environment=EnvironmentConfig(repeat_action_probability=0.25, max_frames_per_episode=108_000),
    network=NetworkConfig(
        encoder="nature",
        padding="same",
        head="dense",
        dense_hidden_units=512,
        values="c51",
        num_atoms=51,
        v_min=-10.0,
        v_max=10.0,
        dueling=False,
        noisy=False,
        initializer="fan_in",
    ),
    replay=ReplayConfig(
        prioritized=True,
        priority_exponent=0.5,
        importance_exponent=0.5,
        n_step=3,
        gamma=0.99,
        min_size=20_000,
        capacity=1_000_000,
        segment_steps=64,
    ),
    exploration=ExplorationConfig(
        kind="linear", epsilon_start=1.0, epsilon_end=0.01, epsilon_decay_steps=250_000
    ),
    actors=ActorConfig(num_actors=1, envs_per_actor=8, weights_poll_steps=1),
    learner=LearnerConfig(
        batch_size=32,
        update_period=4,
        double=False,
        target_update_period=2_000,
        learning_rate=6.25e-5,
        adam_eps=1.5e-4,
        publish_period=25,
    ),
)
DOPAMINE_C51 = _preset(
    "dopamine-c51",
    DOPAMINE_RAINBOW,
    replay__prioritized=False,
    replay__n_step=1,
    learner__learning_rate=2.5e-4,
    learner__adam_eps=3.125e-4,
)
DOPAMINE_QR_DQN = _preset(
    "dopamine-qr-dqn",
    DOPAMINE_RAINBOW,
    network__values="quantile",
    network__num_quantiles=200,
    # The reference computes importance weights but does not use them.
    replay__importance_exponent=0.0,
    learner__learning_rate=5e-5,
    learner__adam_eps=3.125e-4,
)
DOPAMINE_DQN = _preset(
    "dopamine-dqn",
    DOPAMINE_RAINBOW,
    network__values="scalar",
    network__initializer="xavier",
    replay__prioritized=False,
    replay__n_step=1,
    # The default of the reference's code, which no configuration file sets (decision 0025).
    learner__loss="squared",
)

FLEET: dict[str, Any] = {"actors__num_actors": "auto"}
PAPER_RAINBOW = _preset(
    "paper-rainbow",
    DOPAMINE_RAINBOW,
    network__encoder="impala",
    network__head="soft_moe",
    network__num_experts=4,
    network__expert_hidden_units=512,
    network__patch_width=64,
    network__initializer="xavier",
    network__dueling=True,
    network__noisy=True,
    network__noise_per="row",
    learner__double=True,
    # A noisy agent of the reference explores by its noise alone, whatever its configuration file says.
    exploration__epsilon_start=0.0,
    exploration__epsilon_end=0.0,
    **FLEET,
)
PAPER_DQN = _preset(
    "paper-dqn",
    DOPAMINE_DQN,
    network__encoder="impala",
    network__head="soft_moe",
    network__num_experts=8,
    network__expert_hidden_units=512,
    network__patch_width=32,
    **FLEET,
)
PAPER_DQN_NATURE = _preset("paper-dqn-nature", PAPER_DQN, network__encoder="nature", network__patch_width=64)
DER = _preset(
    "der",
    PAPER_RAINBOW,
    run__total_env_steps=100_000,
    environment__repeat_action_probability=0.0,
    # The reference draws from randint(0, 30), which is 0 to 29 (decision 0025).
    environment__noop_max=29,
    network__encoder="nature",
    replay__n_step=10,
    replay__min_size=1_600,
    replay__segment_steps=8,
    replay__life_loss_terminates=True,
    actors__num_actors=1,
    actors__envs_per_actor=1,
    learner__update_period=1,
    learner__learning_rate=1e-4,
    learner__publish_period=10,
    learner__diagnostics_period=2_500,
    evaluation__episodes=100,
)
APEX = _preset(
    "apex",
    PAPER_RAINBOW,
    run__total_env_steps=250_000_000,
    network__num_experts=8,
    network__noisy=False,
    network__noise_per="batch",
    replay__priority_exponent=0.6,
    replay__importance_exponent=0.4,
    replay__min_size=50_000,
    replay__capacity=2_000_000,
    exploration__kind="ladder",
    exploration__epsilon_start=1.0,
    exploration__epsilon_end=0.01,
    exploration__ladder_base=0.4,
    exploration__ladder_exponent=7.0,
    actors__num_actors=16,
    actors__envs_per_actor=16,
    actors__actor_priorities=True,
    # Priorities from actors and from draws must be of one scale, or new items would hardly be drawn.
    learner__priority="absolute_td",
    learner__batch_size=512,
    learner__update_period=64,
    learner__target_update_period=2_500,
    learner__learning_rate=1e-4,
)
LAPTOP = _preset(
    "laptop",
    DOPAMINE_RAINBOW,
    run__total_env_steps=1_000_000,
    network__padding="valid",
    network__encoder_width_scale=0.5,
    # Without it half of the encoder's first layer is dead after 2,500 updates (decision 0030).
    network__centered_kernels=True,
    network__head="soft_moe",
    # With position tokens, only the linear output layer sees the whole board (decision 0029).
    network__tokens="per_sample",
    network__num_experts=4,
    network__expert_hidden_units=128,
    network__residual=True,
    network__token_norm=True,
    network__initializer="xavier",
    network__values="quantile",
    network__num_quantiles=51,
    # For `--network.values c51`.
    network__v_min=-3.0,
    network__v_max=3.0,
    network__dueling=True,
    replay__n_step=5,
    replay__importance_exponent=0.0,
    replay__min_size=5_000,
    replay__capacity=200_000,
    replay__segment_steps=32,
    replay__frame_store_bytes=2 * 1024**3,
    exploration__epsilon_decay_steps=50_000,
    # A request costs two core-milliseconds, and weights are published every 25 vector steps.
    actors__weights_poll_steps=5,
    learner__update_period=8,
    learner__target_update_period=500,
    learner__learning_rate=2e-4,
    # At a constant rate the return stops rising at 300,000 env steps (decision 0029).
    learner__final_learning_rate=1e-5,
    learner__adam_eps=1e-6,
    learner__checkpoint_period=5_000,
    learner__diagnostics_period=2_500,
)
MINATAR_DQN = _preset(
    "minatar-dqn",
    DOPAMINE_DQN,
    run__total_env_steps=5_000_000,
    environment__env="minatar:breakout",
    environment__repeat_action_probability=0.1,
    environment__full_action_space=True,
    environment__stack=1,
    network__encoder="minatar",
    network__padding="valid",
    network__dense_hidden_units=128,
    replay__min_size=5_000,
    replay__capacity=100_000,
    replay__reward_clip=0.0,
    replay__segment_steps=16,
    exploration__epsilon_end=0.1,
    exploration__epsilon_decay_steps=100_000,
    actors__weights_poll_steps=5,
    actors__precision="float32",
    learner__loss="huber",
    learner__update_period=1,
    learner__target_update_period=1_000,
    learner__learning_rate=2.5e-4,
    learner__adam_eps=3.125e-4,
    learner__publish_period=40,
    learner__checkpoint_period=50_000,
    learner__diagnostics_period=50_000,
    learner__precision="float32",
)

PRESETS: dict[str, Config] = {
    config.run.preset: config
    for config in (
        PAPER_RAINBOW, PAPER_DQN, PAPER_DQN_NATURE, DER, APEX, LAPTOP,
        DOPAMINE_DQN, DOPAMINE_C51, DOPAMINE_RAINBOW, DOPAMINE_QR_DQN, MINATAR_DQN,
    )
}  # fmt: skip


def fitted(config: Config, base: Config | None = None, given: Container[str] = ()) -> Config:
    """Reset the preset's own options that do not fit the head or the values that were asked for.

    With this, `--network.head dense` is the preset with a dense head, whatever its mixture looks like.
    `base`: what `config` was made of, its preset by default. `given`: fields, such as `learner.loss`, that
    were asked for; they stay even with the preset's value, so that one that does not fit is refused.
    Raises ConfigError for an Atari game with a preset that plays none.
    """
    if config.run.preset not in PRESETS:  # Made in Python, from its dataclasses.
        return config
    check_game(config, PRESETS[config.run.preset])
    preset = PRESETS[config.run.preset]
    own, presets_own = leaves(config), leaves(preset)
    reset = {
        path.replace(".", "__"): value
        for path, value in _replacements(config.network, (base or preset).network).items()
        if path not in given and own[path] == presets_own[path]
    }
    return with_values(config, **reset)


def _replacements(asked: NetworkConfig, before: NetworkConfig) -> dict[str, Any]:
    """Return the value to take for each field that the network `asked` has no use for, and `before` had."""
    found: dict[str, Any] = {}
    if asked.values not in (before.values, "scalar"):
        found["learner.loss"] = LearnerConfig().loss
    if before.noisy and not asked.noisy:
        # Explore as the presets without noise do, where the preset leaves exploration to its noise.
        explores = DOPAMINE_RAINBOW.exploration
        found["exploration.epsilon_start"] = explores.epsilon_start
        found["exploration.epsilon_end"] = explores.epsilon_end
    if asked.head != before.head:
        foreign = [name for name, heads in ONLY_WITH_HEADS.items() if asked.head not in heads]
        found |= {f"network.{name}": getattr(NetworkConfig(), name) for name in foreign}
    return found


def get_preset(name: str) -> Config:
    """Return the preset of that name; raise ConfigError that names the flag and all presets."""
    if name not in PRESETS:
        raise ConfigError(
            f"--preset {name}: unknown preset; allowed are {', '.join(PRESETS)}{near_matches(name, PRESETS)}"
        )
    return PRESETS[name]
