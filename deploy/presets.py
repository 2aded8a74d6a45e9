"""Named configurations: those of the papers, and a start for a laptop.

Sources: Obando-Ceron et al., 2024 (arXiv 2402.08609) for `paper-rainbow` and `paper-dqn`; van Hasselt et al.,
2019 (data-efficient Rainbow, Atari 100k) for `der`; Horgan et al., 2018 (Ape-X) for `apex`. Fields that a
preset does not name have the defaults of their dataclass.
"""

from actors.config import ActorConfig, EnvironmentConfig, ExplorationConfig
from deploy.checks import near_matches
from deploy.config import Config, ConfigError, RunConfig
from learner.config import LearnerConfig
from models.config import NetworkConfig
from replay.config import ReplayConfig

DEFAULT = "laptop"

PAPER_RAINBOW = Config(
    run=RunConfig(preset="paper-rainbow", total_env_steps=50_000_000),
    environment=EnvironmentConfig(repeat_action_probability=0.25),
    network=NetworkConfig(
        encoder="impala",
        padding="same",
        patch_width=64,
        head="soft_moe",
        num_experts=4,
        expert_hidden_units=512,
        values="c51",
        num_atoms=51,
        v_min=-10.0,
        v_max=10.0,
        dueling=True,
        noisy=True,
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
    actors=ActorConfig(num_actors=4, envs_per_actor=8, actor_priorities=False),
    learner=LearnerConfig(
        batch_size=32,
        update_period=4,
        double=True,
        target_update_period=2_000,
        learning_rate=6.25e-5,
        adam_eps=1.5e-4,
        updates_in_flight=1,
    ),
)

PAPER_DQN = Config(
    run=RunConfig(preset="paper-dqn", total_env_steps=50_000_000),
    environment=EnvironmentConfig(repeat_action_probability=0.25),
    network=NetworkConfig(
        encoder="nature",
        padding="same",
        head="soft_moe",
        num_experts=8,
        expert_hidden_units=512,
        values="scalar",
        dueling=False,
        noisy=False,
    ),
    replay=ReplayConfig(
        prioritized=False, n_step=1, gamma=0.99, min_size=20_000, capacity=1_000_000, segment_steps=64
    ),
    exploration=ExplorationConfig(
        kind="linear", epsilon_start=1.0, epsilon_end=0.01, epsilon_decay_steps=250_000
    ),
    actors=ActorConfig(num_actors=4, envs_per_actor=8, actor_priorities=False),
    learner=LearnerConfig(
        batch_size=32,
        update_period=4,
        double=False,
        target_update_period=2_000,
        learning_rate=6.25e-5,
        adam_eps=1.5e-4,
        updates_in_flight=1,
    ),
)

DER = Config(
    run=RunConfig(preset="der", total_env_steps=100_000),
    environment=EnvironmentConfig(repeat_action_probability=0.0),
    network=NetworkConfig(
        encoder="nature",
        padding="same",
        head="soft_moe",
        num_experts=4,
        expert_hidden_units=512,
        values="c51",
        num_atoms=51,
        v_min=-10.0,
        v_max=10.0,
        dueling=True,
        noisy=True,
    ),
    replay=ReplayConfig(
        prioritized=True,
        priority_exponent=0.5,
        importance_exponent=0.5,
        n_step=10,
        gamma=0.99,
        min_size=1_600,
        capacity=1_000_000,
        segment_steps=8,
        life_loss_terminates=True,
    ),
    exploration=ExplorationConfig(
        kind="linear", epsilon_start=1.0, epsilon_end=0.01, epsilon_decay_steps=2_000
    ),
    actors=ActorConfig(num_actors=1, envs_per_actor=1, actor_priorities=False),
    learner=LearnerConfig(
        batch_size=32,
        update_period=1,
        double=True,
        target_update_period=2_000,
        learning_rate=1e-4,
        adam_eps=1.5e-4,
        updates_in_flight=1,
        diagnostics_period=2_500,
    ),
)

APEX = Config(
    run=RunConfig(preset="apex", total_env_steps=250_000_000),
    environment=EnvironmentConfig(repeat_action_probability=0.25),
    network=NetworkConfig(
        encoder="impala",
        padding="same",
        head="soft_moe",
        num_experts=8,
        expert_hidden_units=512,
        values="c51",
        num_atoms=51,
        v_min=-10.0,
        v_max=10.0,
        dueling=True,
        noisy=False,
    ),
    replay=ReplayConfig(
        prioritized=True,
        priority_exponent=0.6,
        importance_exponent=0.4,
        n_step=3,
        gamma=0.99,
        min_size=50_000,
        capacity=2_000_000,
        segment_steps=64,
    ),
    exploration=ExplorationConfig(kind="ladder", ladder_base=0.4, ladder_exponent=7.0),
    actors=ActorConfig(num_actors=16, envs_per_actor=16, actor_priorities=True),
    learner=LearnerConfig(
        batch_size=512,
        update_period=64,
        double=True,
        target_update_period=2_500,
        learning_rate=1e-4,
        adam_eps=1.5e-4,
    ),
)

LAPTOP = Config(
    run=RunConfig(preset="laptop", total_env_steps=1_500_000),
    environment=EnvironmentConfig(repeat_action_probability=0.25),
    network=NetworkConfig(
        encoder="nature",
        padding="valid",
        head="soft_moe",
        num_experts=4,
        expert_hidden_units=512,
        values="c51",
        num_atoms=51,
        v_min=-10.0,
        v_max=10.0,
        dueling=True,
        noisy=False,
    ),
    replay=ReplayConfig(
        prioritized=True,
        priority_exponent=0.5,
        importance_exponent=0.5,
        n_step=3,
        gamma=0.99,
        min_size=5_000,
        capacity=200_000,
        segment_steps=32,
        frame_store_bytes=2 * 1024**3,
    ),
    exploration=ExplorationConfig(
        kind="linear", epsilon_start=1.0, epsilon_end=0.01, epsilon_decay_steps=50_000
    ),
    actors=ActorConfig(num_actors=1, envs_per_actor=8, actor_priorities=False),
    learner=LearnerConfig(
        batch_size=32,
        update_period=8,
        double=True,
        target_update_period=1_000,
        learning_rate=1e-4,
        adam_eps=1.5e-4,
        checkpoint_period=5_000,
        diagnostics_period=1_000,
    ),
)

PRESETS: dict[str, Config] = {
    config.run.preset: config for config in (PAPER_RAINBOW, PAPER_DQN, DER, APEX, LAPTOP)
}


def get_preset(name: str) -> Config:
    """The preset of that name; ConfigError that names the flag and the presets there are."""
    if name not in PRESETS:
        raise ConfigError(
            f"--preset {name}: unknown preset; allowed are {', '.join(PRESETS)}{near_matches(name, PRESETS)}"
        )
    return PRESETS[name]
