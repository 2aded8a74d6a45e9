"""A saved configuration that is wrong by now: the line names its file and field, and no flag of `train`."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.parsing import fields_for_flags
from deploy.cli.run.control import ScaleArguments
from deploy.cli.run.train import ResumeArguments, TrainArguments
from deploy.fleet.errors import WrongFlag
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, saved_run, status

FILE = "runs/r/config.json"


def change(**sections: dict[str, Any]) -> None:
    """Change the configuration of run `r`, as a newer version or an editor might."""
    path = saved_run().config_path
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {name: document[name] | new for name, new in sections.items()}))


@pytest.mark.parametrize("command", ["resume", "evaluate", "show", "play", "export"])
@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"environment": {"env": "gone_by_now:make"}}, "environment.env 'gone_by_now:make' cannot be made"),
        (
            {"environment": {"game": "pnog"}},
            "environment.game 'pnog' is not an Atari game; did you mean pong?",
        ),
        ({"network": {"encoder": "gone_by_now:make"}}, "network.encoder 'gone_by_now:make' cannot be made"),
        (
            {"environment": {"frame_height": 20}},
            "environment.frame_height: frames are 20x84, and both sides must be 36 or more with"
            " network.encoder",
        ),
        ({"replay": {"n_step": "3"}}, "config: replay.n_step is '3'; allowed is a whole number"),
    ],
)
def test_a_wrong_one_is_one_line_with_its_file_and_field(
    command: str, sections: dict[str, Any], line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(**sections)
    code, out, err = run_line(capsys, command, "r")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("apexpert: ")
    assert f"{FILE}: {line}" in err
    assert not re.findall(r"--(?!traceback)", err)


def test_a_limit_that_it_breaks_is_named_by_its_field(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(replay={"gamma": 1.5})
    for words in (["resume", "r"], ["scale", "r", "--shards", "3"]):
        assert f"{FILE}: replay.gamma 1.5: must be from 0 to 1\n" in run_line(capsys, *words)[2]


def test_flags_that_the_command_has_are_named_as_they_are(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run()
    *_, err = run_line(capsys, "resume", "r", "--actors", "10001")
    assert err.startswith("apexpert: --actors 10001: must be 1 to 10000")
    *_, err = run_line(capsys, "resume", "r", "--ray-address", "there")
    assert err.startswith("apexpert: --ray-address there: must be host:port or auto")
    *_, err = run_line(capsys, "resume", "r", "--total-env-steps", "100")
    assert err.startswith("apexpert: --total-env-steps 100: the run has made 6000 already")


def test_a_device_that_the_ray_lacks_is_named_by_its_field(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(*_: object, **__: object) -> None:
        raise WrongFlag("--learner.device cuda: this node has no GPU that Ray knows of")

    monkeypatch.setattr("deploy.fleet.operations.launch", launch)
    saved_run()
    *_, err = run_line(capsys, "resume", "r")
    assert (
        err
        == f"apexpert: {Path(FILE).absolute()}: learner.device cuda: this node has no GPU that Ray knows of\n"
    )


def test_advice_on_a_run_that_resumes_names_no_flag_of_train(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    launched(ScriptedRun([status("finished")]))
    saved_run()
    for words, setting in (
        (["train", "--name", "new"], "--replay.capacity"),
        (["resume", "r"], "replay.capacity"),
    ):
        out = run_line(capsys, *words)[1]
        assert f"may not be enough; lower {setting} " in " ".join(out.split())


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        (ResumeArguments, "--learner.loss squared: must", "learner.loss squared: must"),
        (ResumeArguments, "with --network.encoder-width-scale 1", "with network.encoder_width_scale 1"),
        (ResumeArguments, "lower --replay.capacity", "lower replay.capacity"),
        (ResumeArguments, "apexpert train --learner.loss", "apexpert train --learner.loss"),
        (ScaleArguments, "--ray-address x, --name y, --shards z", "--ray-address x, --name y, --shards z"),
        (TrainArguments, "--learner.loss squared: must", "--learner.loss squared: must"),
    ],
)
def test_flags_that_a_command_lacks_become_fields(kind: type, line: str, said: str) -> None:
    assert fields_for_flags(line, kind) == said


def test_a_file_of_urls_that_is_gone_is_named_by_what_named_it(
    monkeypatch: pytest.MonkeyPatch, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APEXPERT_REDIS_URLS", "@gone")
    assert run_line(capsys, "train")[2] == "apexpert: $APEXPERT_REDIS_URLS @gone: No such file or directory\n"
    *_, err = run_line(capsys, "train", "--replay.urls", "@gone")
    assert err == "apexpert: --replay.urls @gone: No such file or directory\n"
