"""The config tree: flags, JSON and the checks that come before anything starts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.run.checks import check, smallest_error_buffer, without_passwords
from deploy.run.config import (
    Config,
    ConfigError,
    flag_of,
    from_json,
    hide_password,
    leaf_limits,
    leaf_types,
    overlaid,
    to_json,
    with_values,
)
from deploy.run.presets import LAPTOP, PAPER_DQN, PRESETS

URLS = ("redis://a:1", "redis://b:1")
C51 = with_values(LAPTOP, network__values="c51", learner__update_period=12)


def message(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(with_values(C51, **values))
    text = str(caught.value)
    assert "\n" not in text
    return text


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"learner__batch_size": 5_001}, "--learner.batch-size 5001", "at most --replay.min-size (5000)"),
    ({"learner__batch_size": 0}, "--learner.batch-size 0", "greater than 0"),
    ({"replay__n_step": 0}, "--replay.n-step 0", "1 to 255"),
    ({"environment__stack": 0}, "--environment.stack 0", "1 to 32"),
    ({"replay__capacity": 4_999}, "--replay.capacity 4999", "at least --replay.min-size (5000)"),
    (
        {"replay__capacity": 5_000, "replay__segment_steps": 1_251},
        "--replay.capacity 5000",
        "at least 5004, four segments",
    ),
    ({"replay__error_buffer": 15.0}, "--replay.error-buffer 15.0", "at least 60"),
    ({"replay__error_buffer": 59.0}, "--replay.error-buffer 59.0", "or 0 for a fitting value"),
    ({"network__v_min": 3.0}, "--network.v-min 3.0", "smaller than --network.v-max (3)"),
    ({"network__num_atoms": 1}, "--network.num-atoms 1", "2 or more"),
    ({"network__num_quantiles": 0}, "--network.num-quantiles 0", "greater than 0"),
    (
        {"learner__loss": "squared"},
        "--learner.loss 'squared'",
        "is for --network.values scalar alone; c51 has a loss of its own",
    ),
    (
        {"learner__loss": "squared", "network__values": "quantile"},
        "--learner.loss 'squared'",
        "is for --network.values scalar alone; quantile has a loss of its own",
    ),
    ({"run__total_env_steps": 5_000}, "--total-env-steps 5000", "greater than --replay.min-size (5000)"),
    ({"run__total_env_steps": -1}, "--total-env-steps -1", "greater than 0"),
    ({"run__seed": -1}, "--seed -1", "0 to 2**63 - 1"),
    ({"run__name": "a/b"}, "--name 'a/b'", "letters, digits"),
    ({"run__name": "../a"}, "--name '../a'", "letters, digits"),
    ({"run__name": ".hidden"}, "--name '.hidden'", "letters, digits"),
    ({"actors__num_actors": 0}, "--actors.num-actors 0", "1 to 10000"),
    ({"actors__num_actors": 10_001}, "--actors.num-actors 10001", "1 to 10000"),
    ({"actors__num_actors": "4"}, "--actors.num-actors '4'", "auto:MIN-MAX"),
    ({"actors__num_actors": "auto:0-4"}, "--actors.num-actors 'auto:0-4'", "1 to 10000"),
    ({"actors__num_actors": "auto:4-10001"}, "--actors.num-actors 'auto:4-10001'", "1 to 10000"),
    ({"replay__urls": ("redis://:a b@h",)}, "--replay.urls", "%20"),
    ({"actors__envs_per_actor": -1}, "--actors.envs-per-actor -1", "greater than 0"),
    ({"learner__learning_rate": 0.0}, "--learner.learning-rate 0.0", "greater than 0"),
    ({"learner__learning_rate": float("nan")}, "--learner.learning-rate nan", "finite"),
    ({"replay__gamma": 1.01}, "--replay.gamma 1.01", "from 0 to 1"),
    (
        {"environment__repeat_action_probability": 1.0},
        "--environment.repeat-action-probability 1.0",
        "less than 1",
    ),
    ({"run__lockstep": True}, "--actors.envs-per-actor 8", "must be 1 with --lockstep"),
    (
        {"run__lockstep": True, "actors__envs_per_actor": 1, "actors__num_actors": 2},
        "--actors.num-actors 2",
        "must be 1 with --lockstep",
    ),
    (
        {"actors__actor_priorities": True, "replay__prioritized": False},
        "--actors.actor-priorities",
        "needs --replay.prioritized",
    ),
    (
        {"actors__actor_priorities": True, "replay__prioritized": True},
        "--learner.priority 'loss'",
        "must be absolute_td with --actors.actor-priorities",
    ),
    (
        {"learner__learning_rate": 1e-4, "learner__final_learning_rate": 2e-4},
        "--learner.final-learning-rate 0.0002",
        "must be at most --learner.learning-rate (0.0001), from which it falls",
    ),
    (
        {"actors__actor_priorities": True, "learner__priority": "kl", "network__values": "c51"},
        "--learner.priority 'kl'",
        "must be absolute_td with --actors.actor-priorities",
    ),
    ({"replay__shards": 0}, "--replay.shards 0", "1 to 64"),
    ({"replay__urls": URLS, "replay__shards": 3}, "--replay.shards 3", "--replay.urls names 2"),
    ({"replay__urls": ("http://a",)}, "--replay.urls 'http://a'", "redis://, rediss://, unix://"),
    ({"replay__urls": ("redis://a", "redis://a")}, "--replay.urls", "one shard twice"),
    (
        {"replay__urls": ("unix:///tmp/a.sock",), "run__ray_address": "auto"},
        "--replay.urls",
        "redis:// or rediss:// URLs",
    ),
    ({"run__ray_address": "ray://a:10001"}, "--ray-address ray://a:10001", "--ray-address auto"),
    (
        {"environment__frame_height": 30},
        "--environment.frame-height",
        "frames are 30x84, and both sides must be 36 or more with --network.encoder nature",
    ),
    (
        {"environment__frame_width": 28, "network__encoder": "impala"},
        "--environment.frame-width",
        "29 or more with --network.encoder impala --network.padding valid",
    ),
    ({"environment__max_frames_per_episode": 3}, "--environment.max-frames-per-episode 3", "at least"),
]


@pytest.mark.parametrize(("values", "flag", "allowed"), WRONG, ids=[flag for _, flag, _ in WRONG])
def test_a_wrong_value_is_one_line_with_its_flag_and_what_is_allowed(
    values: dict[str, Any], flag: str, allowed: str
) -> None:
    text = message(**values)
    assert text.startswith(flag)
    assert allowed in text


def test_values_at_the_border_are_allowed() -> None:
    check(with_values(LAPTOP, learner__batch_size=5_000, replay__capacity=5_000, run__total_env_steps=5_001))
    check(with_values(C51, replay__error_buffer=smallest_error_buffer(C51)))
    check(with_values(LAPTOP, replay__urls=URLS, replay__shards=2))
    check(with_values(LAPTOP, replay__urls=URLS[:1]))
    check(with_values(LAPTOP, run__lockstep=True, actors__num_actors=1, actors__envs_per_actor=1))
    check(with_values(LAPTOP, run__ray_address="auto", replay__urls=URLS))
    check(with_values(PAPER_DQN, network__v_min=10.0, learner__loss="squared"))
    check(with_values(PRESETS["dopamine-qr-dqn"], network__v_min=10.0, network__num_quantiles=1))


def test_every_number_has_a_rule() -> None:
    numbers = {path for path, kind in leaf_types().items() if kind in (int, float)}
    limited = {path for path, markers in leaf_limits().items() if markers}
    assert numbers - limited == {"network.v_min", "network.v_max", "run.until_return"}
    assert limited - numbers == {"run.name", "run.runs_dir", "actors.num_actors"}


@pytest.mark.parametrize("path", [path for path, kind in leaf_types().items() if kind in (int, float)])
def test_no_number_may_be_hugely_negative(path: str) -> None:
    if path in ("network.v_min", "run.until_return"):
        return
    value = leaf_types()[path](-1e9)
    text = message(**{path.replace(".", "__"): value})
    assert text.startswith("--network.v-min" if path == "network.v_max" else flag_of(path))


def limiter_moves(batch_size: int, period: int, segment: int, error_buffer: float, min_size: int) -> bool:
    """Reverb's algebra played for a while: actors insert whole segments, the learner draws whole batches."""
    ratio = batch_size / period
    inserts, samples = 0, 0
    for _ in range(2_000):
        allowed = int((samples + min_size * ratio + error_buffer) / ratio)
        may_sample = (
            inserts >= min_size and inserts * ratio - samples - batch_size >= min_size * ratio - error_buffer
        )
        if may_sample:
            samples += batch_size
        elif inserts < min_size or inserts < allowed:
            inserts += segment
        else:
            return False
    return samples > 0


@given(
    batch_size=st.integers(1, 512),
    period=st.integers(1, 64),
    segment=st.integers(1, 128),
    min_size=st.integers(512, 1_000),
)
def test_the_smallest_error_buffer_never_deadlocks(
    batch_size: int, period: int, segment: int, min_size: int
) -> None:
    config = with_values(
        LAPTOP, learner__batch_size=batch_size, learner__update_period=period, replay__segment_steps=segment
    )
    assert limiter_moves(batch_size, period, segment, smallest_error_buffer(config), min_size)


def test_a_buffer_of_less_than_half_a_batch_does_deadlock() -> None:
    assert not limiter_moves(32, 12, 1, 15.0, 5_000)
    assert limiter_moves(32, 12, 32, smallest_error_buffer(C51), 5_000)


def test_flags_are_as_they_are_typed() -> None:
    assert flag_of("replay.n_step") == "--replay.n-step"
    assert flag_of("run.total_env_steps") == "--total-env-steps"


@pytest.mark.parametrize("name", PRESETS)
def test_json_gives_the_same_tree_back(name: str) -> None:
    config = with_values(PRESETS[name], replay__urls=URLS, run__name="x", network__v_max=7.0)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json_takes_whole_numbers_for_floats_and_defaults_for_missing_fields() -> None:
    config = from_json({"replay": {"gamma": 1}})
    assert config == with_values(Config(), replay__gamma=1.0)
    assert isinstance(config.replay.gamma, float)


def test_a_configuration_with_threads_of_before_is_read() -> None:
    document = to_json(Config())
    document["learner"]["num_threads"] = 3
    del document["learner"]["cpus"]
    assert from_json(document).learner.cpus == 3
    assert overlaid(Config(), {"learner": {"num_threads": 2}}).learner.cpus == 2


@pytest.mark.parametrize(("distributional", "values"), [(True, "c51"), (False, "scalar")])
def test_a_configuration_of_before_there_were_values_is_read(distributional: bool, values: str) -> None:
    config = with_values(LAPTOP, network__values=values, network__num_quantiles=200)
    document = json.loads(json.dumps(to_json(config)))
    network, learner = document["network"], document["learner"]
    del network["values"], network["num_quantiles"], learner["loss"]
    network["distributional"] = distributional
    assert from_json(document) == config
    assert network["distributional"] is distributional, "the document itself stays as it was"


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"network": {"distributional": 1}}, "network: unknown field 'distributional'"),
        ({"network": {"distributional": True, "values": "c51"}}, "network: unknown field 'distributional'"),
        ({"network": {"values": "c52"}}, "one of scalar, c51, quantile"),
        ({"network": True}, "expected named fields"),
        ({"replay": {"shardz": 3}}, "replay: unknown field 'shardz'"),
        ({"reply": {}}, "unknown field 'reply'"),
        ({"replay": {"shards": "3"}}, "--replay.shards"),
        ({"replay": {"shards": True}}, "allowed is a whole number"),
        ({"replay": {"shards": 3.0}}, "allowed is a whole number"),
        ({"replay": {"gamma": True}}, "allowed is a number"),
        ({"replay": {"urls": "redis://a"}}, "a list of texts"),
        ({"network": {"padding": "wide"}}, "one of same, valid"),
        ({"run": {"detach": 1}}, "true or false"),
        ({"run": []}, "expected named fields"),
        (None, "expected named fields"),
    ],
)
def test_json_that_does_not_fit_is_one_line(document: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(document)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_passwords_are_hidden() -> None:
    assert hide_password("redis://user:secret@host:6379/0") == "redis://user:***@host:6379/0"
    assert hide_password("redis://:secret@host") == "redis://:***@host"
    assert hide_password("redis://host:6379") == "redis://host:6379"
    assert hide_password("redis://:unescaped/p@ss:w@host:1") == "redis://:***@host:1"
    assert hide_password("redis://host?db=1&password=secret&a=b") == "redis://host?db=1&password=***&a=b"
    assert (
        hide_password("at redis://:one@a and redis://u:two@b:1: no")
        == "at redis://:***@a and redis://u:***@b:1: no"
    )
    config = with_values(LAPTOP, replay__urls=("redis://u:secret@host", "redis://other"))
    assert without_passwords(config).replay.urls == ("redis://u:***@host", "redis://other")
    assert "secret" not in repr(config)
