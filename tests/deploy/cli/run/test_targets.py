"""Where a command writes its file, from what the user says."""

from pathlib import Path

import pytest

from deploy.cli.run.targets import file_target
from deploy.run.config import ConfigError


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("", "curve.png"),
        ("a", "a.png"),
        ("run-1.5", "run-1.5.png"),
        ("v2.", "v2..png"),
        ("a.PDF", "a.PDF"),
        ("new/", "new/curve.png"),
        (".", "curve.png"),
    ],
)
def test_a_missing_ending_is_added(given: str, written: str, in_tmp: Path) -> None:
    assert file_target("--output", given, Path("curve.png"), (".png", ".pdf")) == Path(written)


@pytest.mark.parametrize("given", ["a.gif", "a.mp4", "run-1.5.h5"])
def test_another_ending_is_refused(given: str, in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=f"--output {given}: must end in .png or .pdf, or name a folder"):
        file_target("--output", given, Path("curve.png"), (".png", ".pdf"))
