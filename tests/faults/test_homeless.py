"""A service's user: without a name, a home, or leave to write to the installation."""

import pytest

from tests.helpers.runs.homeless import Homeless

SHORT = ["--total-env-steps", "1200", "--replay.min-size", "200", "--name", "r"]


@pytest.mark.faults_long
def test_it_trains_and_shows(homeless: Homeless) -> None:
    command = ("-m", "deploy.cli.main")
    doctor = homeless.run(*command, "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert f"compiled code cache: {homeless.temporary}/apexpert-cache-" in doctor.stdout
    trained = homeless.run(*command, "train", "--preset", "laptop", "--game", "Pong", *SHORT)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    drawn = homeless.run(*command, "show", "r", "--steps", "8")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    for done in (doctor, trained, drawn):
        assert not any(word in done.stderr for word in ("Traceback", "Fontconfig", "Matplotlib")), done.stderr
    assert [path.name for path in homeless.work.iterdir()] == ["runs"]
