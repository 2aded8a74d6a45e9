"""What reports make of a run's records: each once, each in its window, and nobody else's figures touched."""

import gzip
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks.measured_run import WINDOW, measured
from deploy.reports.contact_sheet import draw_contact_sheet
from deploy.reports.diagnostics_plot import read_diagnoses
from replay.tools.preview import DrawnTransition
from replay.types import SegmentIdentity


def test_an_update_diagnosed_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    """The run went back to a checkpoint: the same update has come at another env step."""
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for update, env_steps, rank in ((10, 40, 1.0), (20, 80, 2.0), (20, 84, 3.0)):
            record = {"diagnostics/update": update, "diagnostics/env_steps": env_steps, "rank": rank}
            file.write(json.dumps(record) + "\n")
    assert [record["rank"] for record in read_diagnoses(tmp_path)] == [1.0, 3.0]


def test_an_episode_that_ends_with_a_window_is_in_it(tmp_path: Path) -> None:
    run = {"preset": "laptop", "seed": 1, "total_env_steps": 2 * WINDOW}
    (tmp_path / "config.json").write_text(json.dumps({"run": run, "environment": {"game": "pong"}}))
    with gzip.open(tmp_path / "episodes.jsonl.gz", "wt") as file:
        for env_steps, value in ((1, 1.0), (WINDOW, 3.0), (WINDOW + 1, 5.0), (2 * WINDOW, 9.0)):
            file.write(json.dumps({"env_steps": env_steps, "return": value}) + "\n")
        file.write(json.dumps({"env_steps": 2 * WINDOW + 1, "return": 99.0}) + "\n")
    assert measured(tmp_path)["means"] == [2.0, 7.0]


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 7, 8, 8)])
def test_a_contact_sheet_leaves_other_figures_open(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Of grey frames, and of frames with seven planes."""
    frames = np.zeros(shape, np.uint8)
    transition = DrawnTransition(
        SegmentIdentity(0, 0, 0),
        0,
        frames,
        frames,
        0,
        0.0,
        0.99,
        1,
        mass=1.0,
        probability=1.0,
        weights_version=0,
    )
    figure = plt.figure()
    try:
        assert draw_contact_sheet([transition], ["UP"], tmp_path / "sheet.png", title="r").exists()
        assert plt.fignum_exists(figure.number)
    finally:
        plt.close(figure)
