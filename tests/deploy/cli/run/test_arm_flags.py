"""Every arm by its flags, and the one line that says why a combination makes no sense."""

import dataclasses
import re
from typing import Any

import pytest

from deploy.cli.errors import UsageError
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.checks import check
from deploy.run.config import ConfigError, flag_of, with_values
from deploy.run.presets import LAPTOP, PAPER_DQN, PAPER_RAINBOW, fitted
from models.config import NetworkConfig
from tests.helpers.models.arms import ARMS
from tests.helpers.root import ROOT

TABLE = (ROOT / "docs" / "arms.md").read_text()


def flags(changes: dict[str, Any]) -> list[str]:
    argv = []
    for name, value in changes.items():
        flag = flag_of(f"network.{name}")
        argv += [flag] if value is True else [flag, str(value)]
    return argv


@pytest.mark.parametrize("preset", ["paper-rainbow", "paper-dqn", "laptop"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_matter_of_flags(arm: str, preset: str) -> None:
    argv = ["--preset", preset, *flags(ARMS[arm])]
    config = config_of(parse_config(TrainArguments, argv, command="train", default=lambda: LAPTOP))
    base = {"paper-rainbow": PAPER_RAINBOW, "paper-dqn": PAPER_DQN, "laptop": LAPTOP}[preset]
    changed = with_values(base, **{f"network__{name}": value for name, value in ARMS[arm].items()})
    assert config == fitted(changed)


def test_the_table_of_arms_names_every_option_of_an_arm() -> None:
    agent = {"padding", "dueling", "noisy_sigma", "noise_per", "initializer"}
    for field in dataclasses.fields(NetworkConfig):
        if field.name not in agent:
            assert f"{flag_of(f'network.{field.name}')}" in TABLE, field.name


def test_the_table_of_arms_names_tests_that_are_there() -> None:
    named = set(re.findall(r"tests/\w+/test_\w+\.py", TABLE))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"encoder": "resnet"}, "--network.encoder 'resnet'", "impala, nature, minatar or module:callable"),
    ({"encoder": "natur"}, "--network.encoder 'natur'", "did you mean nature"),
    ({"head": "moe"}, "--network.head 'moe'", "soft_moe, top_k_moe, expert_choice, dense, pooled or module"),
    ({"head": "my module:head"}, "--network.head 'my module:head'", "or module:callable"),
    ({"head": "module:"}, "--network.head 'module:'", "or module:callable"),
    (
        {"head": "top_k_moe", "selected_experts": 5},
        "--network.selected-experts 5",
        "at most --network.num-experts (4)",
    ),
    ({"selected_experts": 2}, "--network.selected-experts 2", "it is for top_k_moe"),
    ({"head": "top_k_moe", "selected_experts": 0}, "--network.selected-experts 0", "greater than 0"),
    ({"head": "dense", "normalize": True}, "--network.normalize", "it is for soft_moe"),
    ({"head": "top_k_moe", "normalize": True}, "--network.normalize", "it is for soft_moe"),
    ({"head": "dense", "residual": True}, "--network.residual", "for soft_moe and top_k_moe"),
    ({"head": "pooled", "token_norm": True}, "--network.token-norm", "for soft_moe and top_k_moe"),
    ({"normalize_scale": 16.0}, "--network.normalize-scale 16", "does nothing without --network.normalize"),
    ({"normalize": True, "normalize_scale": 0.0}, "--network.normalize-scale 0", "greater than 0"),
    ({"scale_dense": True}, "--network.scale-dense", "it is for dense"),
    ({"head": "pooled", "slim_experts": True}, "--network.slim-experts", "for soft_moe and top_k_moe"),
    (
        {"num_experts": 3, "slim_experts": True},
        "--network.slim-experts",
        "divided by --network.num-experts (3)",
    ),
    ({"expert_width_scale": 0.001}, "--network.expert-width-scale 0.001", "leaves an expert of 512"),
    ({"router_noise": 1.0}, "--network.router-noise 1.0", "it is for top_k_moe"),
    ({"load_loss_weight": 1.0}, "--network.load-loss-weight 1.0", "it is for top_k_moe"),
    ({"head": "expert_choice", "selected_experts": 2}, "--network.selected-experts 2", "it is for top_k_moe"),
    ({"head": "expert_choice", "load_loss_weight": 1.0}, "--network.load-loss-weight 1.0", "for top_k_moe"),
    ({"head": "expert_choice", "phi": "fixed"}, "--network.phi 'fixed'", "it is for soft_moe"),
    ({"head": "top_k_moe", "phi": "redrawn"}, "--network.phi 'redrawn'", "it is for soft_moe"),
    ({"head": "dense", "shuffle": "features"}, "--network.shuffle 'features'", "top_k_moe and expert_choice"),
    ({"head": "pooled", "shuffle": "tokens"}, "--network.shuffle 'tokens'", "top_k_moe and expert_choice"),
    ({"tokens": "per_sample", "shuffle": "features"}, "--network.shuffle 'features'", "one token a state"),
    ({"combine": "mean", "shuffle": "tokens"}, "--network.shuffle 'tokens'", "with --network.combine mean"),
    ({"sparsity": 1.0}, "--network.sparsity 1.0", "less than 1"),
    ({"sparsity": -0.1}, "--network.sparsity -0.1", "0 or more"),
    ({"sparsify": "pruning"}, "--network.sparsify 'pruning'", "does nothing without --network.sparsity"),
    (
        {"sparsity_distribution": "uniform"},
        "--network.sparsity-distribution 'uniform'",
        "does nothing without",
    ),
    ({"encoder_width_scale": 0.05}, "--network.encoder-width-scale 0.05", "1/16 or more"),
    ({"capacity_factor": 0.0}, "--network.capacity-factor 0.0", "greater than 0"),
    ({"tokens": "per_patch", "patch_size": 12}, "--network.patch-size 12", "both sides must be"),
]


@pytest.mark.parametrize(("changes", "flag", "allowed"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_what_makes_no_sense_is_one_line(changes: dict[str, Any], flag: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(with_values(PAPER_RAINBOW, **{f"network__{name}": value for name, value in changes.items()}))
    text = str(caught.value)
    assert text.startswith(flag)
    assert allowed in text
    assert "\n" not in text


PRUNED = {"network__sparsity": 0.95, "network__sparsify": "pruning"}
WRONG_PRUNING: list[tuple[dict[str, Any], str, str]] = [
    ({"network__sparsify": "static", "learner__pruning_end": 0.5}, "--learner.pruning-end 0.5", "without"),
    (
        {"network__sparsity": 0.0, "network__sparsify": "static", "learner__pruning_period": 7},
        "--learner.pruning-period 7",
        "does nothing without --network.sparsify pruning",
    ),
    ({"learner__pruning_start": 0.8}, "--learner.pruning-start 0.8", "smaller than --learner.pruning-end"),
    ({"learner__pruning_start": -0.1}, "--learner.pruning-start -0.1", "from 0 to 1"),
    ({"learner__pruning_end": 1.0}, "--learner.pruning-period 1000", "at most 0, the updates after"),
    ({"learner__pruning_period": 0}, "--learner.pruning-period 0", "greater than 0"),
    (
        {"run__total_env_steps": 30_000, "learner__pruning_period": 1_501},
        "--learner.pruning-period 1501",
        "must be at most 1500, the updates after --learner.pruning-end",
    ),
]


@pytest.mark.parametrize(("changes", "flag", "allowed"), WRONG_PRUNING, ids=range(len(WRONG_PRUNING)))
def test_pruning_that_makes_no_sense_is_one_line(changes: dict[str, Any], flag: str, allowed: str) -> None:
    check(with_values(PAPER_RAINBOW, **PRUNED))
    with pytest.raises(ConfigError) as caught:
        check(with_values(PAPER_RAINBOW, **(PRUNED | changes)))
    text = str(caught.value)
    assert text.startswith(flag)
    assert allowed in text
    assert "\n" not in text


def test_a_module_of_ones_own_is_not_looked_up_by_the_checks_and_takes_every_option() -> None:
    own = {"network__head": "anything.at:all", "network__normalize": True, "network__selected_experts": 2}
    check(with_values(LAPTOP, **own))


def test_an_unknown_kind_of_tokens_is_refused() -> None:
    argv = ["--network.tokens", "per_pixel"]
    with pytest.raises(UsageError, match="per_conv, per_feature_map, per_sample, per_patch"):
        parse_config(TrainArguments, argv, command="train", default=lambda: LAPTOP)
