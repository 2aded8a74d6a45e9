"""Options of the reference's networks, by their names there, as ours."""

import pytest

from models.reference.options import UnsupportedOption, is_double, network_config, scalar_loss

DQN = {"kind": "dqn", "moe_type": "SOFTMOE", "num_actions": 3}
RAINBOW = {**DQN, "kind": "rainbow"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DQN, {"head": "soft_moe", "encoder": "impala", "padding": "same", "num_experts": 8, "noisy": False}),
        (DQN, {"values": "scalar", "dueling": False, "patch_width": 32, "expert_hidden_units": 512}),
        ({**DQN, "encoder": "CNN"}, {"encoder": "nature", "patch_width": 64}),
        ({**DQN, "encoder": "CNN", "nn_scale": 2}, {"encoder_width_scale": 1.0}),
        ({**DQN, "nn_scale": 2}, {"encoder_width_scale": 2.0}),
        (
            {**DQN, "moe_type": "BASELINE", "expert_hidden_units": 7},
            {"head": "dense", "dense_hidden_units": 7},
        ),
        ({**DQN, "moe_type": "BASELINE", "scale_hidden_layer": True}, {"hidden_of_the_dense_head": 4096}),
        ({**DQN, "moe_type": "MOE", "num_selected_experts": 1}, {"head": "top_k_moe", "selected_experts": 1}),
        (
            {**DQN, "routing_type": "PER_PATCH", "patch_size": [2, 2]},
            {"tokens": "per_patch", "patch_size": 2},
        ),
        ({**DQN, "use_avg_pool_for_tokens": True}, {"patch_embedding": "average"}),
        ({**DQN, "routing_type": "PER_FEATUREMAP"}, {"tokens": "per_feature_map"}),
        ({**DQN, "routing_type": "PER_SAMPLE"}, {"tokens": "per_sample"}),
        ({**DQN, "normalization": True, "capacity_factor": 2}, {"normalize": True, "capacity_factor": 2.0}),
        (
            RAINBOW,
            {"noisy": True, "dueling": True, "values": "c51", "num_atoms": 51, "patch_width": 64},
        ),
        (RAINBOW, {"v_min": -10.0, "v_max": 10.0}),
        ({**RAINBOW, "vmax": 5}, {"v_min": -5.0, "v_max": 5.0}),
        ({**RAINBOW, "vmin": -1.0, "vmax": 5}, {"v_min": -1.0}),
        (
            {**RAINBOW, "encoder_type": "CNN", "nn_scale": 0.5},
            {"encoder": "nature", "encoder_width_scale": 0.5},
        ),
        ({**RAINBOW, "dueling": False, "noisy": False}, {"dueling": False, "noisy": False}),
        ({**RAINBOW, "distributional": False, "num_atoms": 1}, {"values": "scalar", "dueling": True}),
    ],
    ids=str,
)
def test_options(options, expected):
    config = network_config(options)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": None}, "kind: is missing"),
        ({"moe_type": "SIMPLICIAL_EMBEDDING_V1"}, "moe_type: 'SIMPLICIAL_EMBEDDING_V1' is not supported"),
        ({"encoder": "RESNET"}, "encoder: 'RESNET' is not supported, only IMPALA, CNN"),
        ({"noisy_routing": True}, "noisy_routing: True is not supported, only False"),
        ({"num_experts": 0}, "num_experts: 0 is not a positive integer"),
        ({"num_experts": True}, "num_experts: True is not a positive integer"),
        ({"nn_scale": "2"}, "nn_scale: '2' is not a number"),
        ({"noisy": 1}, "noisy: 1 is not true or false"),
        ({"patch_size": []}, r"patch_size: \[\] is not supported, only squares"),
        ({"distributional": False}, "num_atoms: only 1 is supported with distributional false"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_named(change, message):
    with pytest.raises(UnsupportedOption, match=message):
        network_config({**RAINBOW, **change})


def test_double():
    assert is_double(RAINBOW)
    assert not is_double({**RAINBOW, "double": False})
    assert not is_double({**RAINBOW, "double_dqn": False})
    assert not is_double(DQN)
    with pytest.raises(UnsupportedOption, match="double"):
        is_double({**DQN, "double": True})


def test_the_loss_of_scalar_values():
    assert scalar_loss(DQN) == scalar_loss(RAINBOW) == scalar_loss({**DQN, "loss_type": "huber"}) == "huber"
    assert scalar_loss({**DQN, "loss_type": "mse"}) == "squared"
    with pytest.raises(UnsupportedOption, match="loss_type: 'l1' is not supported, only huber, mse"):
        scalar_loss({**DQN, "loss_type": "l1"})
    with pytest.raises(UnsupportedOption, match="loss_type: 'mse' is not supported for kind 'rainbow'"):
        scalar_loss({**RAINBOW, "loss_type": "mse"})
