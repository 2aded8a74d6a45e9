"""A study's file: what it may say, and the runs that it stands for."""

from pathlib import Path

import pytest

from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run import presets
from deploy.run.config import Config, with_values
from deploy.study.errors import StudyError
from deploy.study.file import StudyFile, shipped
from deploy.study.plan import PlannedRun, plan, words_of
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read

LIKE_NAMED = """
[factors.one.a.network]
[factors.one.a-b.network]
[factors.two.b-c.network]
[factors.two.c.network]
"""
MINATAR = """
[base.run]
preset = "minatar-dqn"
"""


def planned(study: StudyFile, size: str = "full") -> list[PlannedRun]:
    return plan(study, study.size(size), Path("runs") / study.name)


def test_every_game_arm_and_seed_is_a_run(tmp_path):
    runs = planned(read(tmp_path, STUDY + ARMS + SIZES))
    assert [run.name for run in runs] == [
        "dense-Pong-1", "soft-2-Pong-1", "dense-Boxing-1", "soft-2-Boxing-1",
        "dense-Pong-2", "soft-2-Pong-2", "dense-Boxing-2", "soft-2-Boxing-2",
    ]  # fmt: skip
    config = runs[-1].config
    assert (config.run.seed, config.environment.game, config.network.num_experts) == (2, "Boxing", 2)
    assert (config.run.total_env_steps, config.run.runs_dir) == (30000, "runs/trial")
    assert config.run.detach, "a run does not end with its study's command"
    assert config.evaluation.every_env_steps == 0


def test_a_size_has_its_own_arms(tmp_path):
    assert [run.name for run in planned(read(tmp_path, STUDY + ARMS + SIZES), "lite")] == ["dense-Pong-7"]


def test_factors_give_an_arm_for_each_choice_of_levels(tmp_path):
    factors = """
    [factors.agent.dqn.run]
    preset = "paper-dqn"
    [factors.agent.rainbow.run]
    preset = "paper-rainbow"
    [factors.experts.1.network]
    num_experts = 1
    [factors.experts.8.network]
    num_experts = 8
    """
    sizes = SIZES.replace('arms = ["dense"]', "")
    runs = planned(read(tmp_path, STUDY + factors + sizes))[:4]
    assert [run.arm for run in runs] == ["dqn-1", "dqn-8", "rainbow-1", "rainbow-8"]
    assert [run.config.network.values for run in runs] == ["scalar", "scalar", "c51", "c51"]
    assert [run.config.network.num_experts for run in runs] == [1, 8, 1, 8]


def test_the_run_itself_evaluates_its_end_where_that_is_the_question(tmp_path):
    text = STUDY.replace("final return", "evaluation") + ARMS + SIZES
    assert planned(read(tmp_path, text))[0].config.evaluation.every_env_steps == 30000
    own = text + "[base.evaluation]\nevery_env_steps = 500\n"
    assert planned(read(tmp_path, own))[0].config.evaluation.every_env_steps == 500


def test_every_study_can_be_smoked(tmp_path):
    runs = planned(read(tmp_path, STUDY + ARMS + SIZES), "smoke")
    assert [run.name for run in runs] == ["dense-Pong-1", "soft-2-Pong-1"]
    assert {run.config.run.total_env_steps for run in runs} == {600}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ARMS + SIZES, "study.name: is missing"),
        (STUDY.replace('"None."', '""') + ARMS + SIZES, "study.stop_rule: is missing"),
        (STUDY.replace('["The first."]', '"The first."') + ARMS + SIZES, "study.hypotheses 'The first.'"),
        (STUDY.replace("trial", "a b") + ARMS + SIZES, "study.name 'a b'"),
        (STUDY.replace("final return", "best") + ARMS + SIZES, "study.primary_metric 'best'"),
        (STUDY + SIZES, r"arms: give either \[arms.NAME.…\] or"),
        (STUDY + ARMS, "sizes: give one at least"),
        (STUDY + ARMS.replace("arms", "armes") + SIZES, "armes: no such field of a study; did you mean arms"),
        (STUDY + ARMS.replace("head", "haed") + SIZES, "arm dense: .*unknown field 'haed'"),
        (STUDY + ARMS.replace("= 2", "= 0") + SIZES, "arm soft-2: --network.num-experts 0: must be"),
        (STUDY + ARMS + SIZES.replace('["dense"]', '["dens"]'), "no arm 'dens'; did you mean dense"),
        (STUDY + ARMS + SIZES.replace("[1, 2]", "[1, 1]"), "sizes.full.seeds: one stands there twice"),
        (STUDY + ARMS + SIZES.replace("[7]", '["7"]'), "sizes.lite.seeds: must be a list of whole numbers"),
        (STUDY + ARMS + SIZES.replace('["Pong"]', "[]"), "sizes.lite.games: must be a list of games"),
        (STUDY + "[factors.agent]\n" + SIZES, "factors.agent: must have levels"),
        (STUDY + ARMS.replace("soft-2", "s" * 80) + SIZES, "no run can have this name; shorten it"),
        (STUDY + "arms = 3\n", "study.arms"),
        (STUDY.replace('"The first."', "1") + ARMS + SIZES, "study.hypotheses: is missing"),
        ("base = 3\n" + STUDY + ARMS + SIZES, "base: must be tables of fields"),
        (STUDY + ARMS + SIZES + "[base]\nrun = 3\n", "base: must be tables of fields"),
        (STUDY + ARMS + SIZES + "[base.run]\npreset = 3\n", "arm dense: --preset 3: unknown preset"),
        (STUDY + ARMS + SIZES + "[base.run]\nseed = 3\n", "base.run.seed: is set for each run by the study"),
        (STUDY + "[arms.dense]\nrun = 3\n" + SIZES, "arms.dense: must be tables of fields"),
        (STUDY + "[factors.agent]\ndqn = 'x'\n" + SIZES, "factors.agent.dqn: must be tables of fields"),
        (STUDY + LIKE_NAMED + SIZES, "factors: two choices of levels are called a-b-c"),
        (STUDY + ARMS + SIZES + "set = { run = 5 }\n", "sizes.lite.set: must be tables of fields"),
        (STUDY + ARMS + SIZES.replace("10000", "'10000'"), "total_env_steps '10000': must be a whole number"),
        (STUDY + ARMS + SIZES.replace('["dense"]', "[]"), "sizes.lite.arms: must have one at least"),
        (STUDY + ARMS + SIZES.replace('["dense"]', '[["dense"]]'), "sizes.lite.arms: no arm"),
        (STUDY + ARMS + SIZES.replace('["dense"]', '["dense", "dense"]'), "sizes.lite.arms: one stands"),
        (STUDY + ARMS + SIZES.replace("[1, 2]", "[-1]"), "sizes.full.seeds: must be a list of whole numbers"),
        (STUDY + ARMS + SIZES.replace('"Boxing"', '"pong"'), "sizes.full.games: one stands there twice"),
        (STUDY + ARMS + SIZES.replace('"Boxing"', '""'), "sizes.full.games: must be a list of games"),
        (STUDY + ARMS + SIZES.replace("full", '"../x"'), "sizes.../x: a size is a part of its folder's name"),
        (STUDY + ARMS + SIZES + MINATAR, "Pong: is an Atari game, and preset minatar-dqn of arm dense"),
        (STUDY + ARMS.replace("soft-2", "dense-x") + SIZES.replace('"Pong", "Boxing"', '"x:y", "y"'),
         "dense-x-y-1: two runs would have this name"),
        ("[study", "Expected ']' at the end"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, complaint):
    with pytest.raises(StudyError, match=rf"trial.toml: {complaint}|trial.toml.*{complaint}") as raised:
        planned(read(tmp_path, text))
    assert raised.value.path == tmp_path / "trial.toml"
    assert "\n" not in str(raised.value)


def test_a_size_that_the_file_lacks_is_named():
    with pytest.raises(StudyError, match=r"--size tiny: .* has full, lite, smoke"):
        StudyFile.read("paper-scaling").size("tiny")


def test_an_unknown_study_gets_a_hint():
    with pytest.raises(StudyError, match=r"paper-scalling: no such file .*did you mean paper-scaling"):
        StudyFile.read("paper-scalling")


@pytest.mark.parametrize("name", shipped())
def test_every_run_of_a_study_that_comes_with_apexpert_can_be_configured(name):
    study = StudyFile.read(name)
    assert study.name == name
    runs = {size: planned(study, size) for size in study.sizes}
    assert {"full", "lite", "smoke"} <= runs.keys()
    assert len(runs["lite"]) < len(runs["full"])
    assert parsed(runs["lite"][-1].words) == runs["lite"][-1].config


def test_the_words_of_a_run_give_all_of_its_configuration():
    assert parsed(words_of(Config())) == with_values(Config(), run__preset=presets.DEFAULT)
    others = {
        "run__name": "it", "run__lockstep": False, "run__until_return": 18.25, "run__runs_dir": "other dir",
        "environment__full_action_space": True, "network__noisy": True, "network__dueling": False,
        "network__v_max": 1e-7, "replay__urls": ("redis://a:1", "redis://b:2"), "learner__device": "cpu",
        "learner__learning_rate": 1 / 3,
    }  # fmt: skip
    config = with_values(presets.get_preset("apex"), **others)
    words = words_of(config)
    assert words[:2] == ["--preset", "apex"]
    assert parsed(words) == config


def parsed(words: list[str]) -> Config:
    default = presets.PRESETS[presets.DEFAULT]
    return config_of(parse_config(TrainArguments, words, command="train", default=lambda: default))
