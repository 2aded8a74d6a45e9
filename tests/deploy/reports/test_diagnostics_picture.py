"""The picture of the diagnostics: what is in which axes, and that rounding is not drawn."""

import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actors.environments import describe_environment
from deploy.bench.limits import make_train_step, random_batch
from deploy.cli.main import main
from deploy.reports.curves.run_curves import CurveError
from deploy.reports.diagnostics_plot import PANELS, belongs, draw_diagnostics, without_rounding
from deploy.run.config import Config, with_values
from deploy.run.folder import RunFolder
from learner.diagnostics.diagnostics import Diagnostics
from learner.diagnostics.files import save_arrays
from models.config import NetworkConfig
from tests.helpers.runs.network_runs import SMALL, run_folder

TARGET = Path("not-written.png")


def write_diagnoses(folder: RunFolder, steps: list[int]) -> None:
    names = ["dormant_share/all", "srank", "entk_rank", "combine_share/0", "combine_share/1", "td_error_mean"]
    names += ["reference/feature_norm", "dispatch_entropy", "combine_entropy", "expert_grad_norm/0"]
    with (folder.path / "metrics.jsonl").open("a") as file:
        for step in steps:
            record = {f"diagnostics/{name}": step * 0.01 + i for i, name in enumerate(names)}
            when = {"diagnostics/update": step // 4, "diagnostics/env_steps": step, "time": 1.0}
            file.write(json.dumps(record | when) + "\n")


def test_the_diagnostics_of_runs_are_drawn(tmp_path, capsys):
    folder = run_folder(tmp_path, num_experts=2)
    write_diagnoses(folder, [100, 200, 300])
    save_arrays(folder.path, 12, {"entk": np.eye(6, dtype=np.float32)})
    assert main(["plot", "seen", "--diagnostics", "--runs-dir", str(tmp_path)]) == 0
    picture = folder.path / "diagnostics.png"
    assert capsys.readouterr().out.strip() == str(picture)
    assert imageio.imread(picture).shape[1] >= 1500


def test_a_run_without_diagnostics_is_named(tmp_path, capsys):
    folder = run_folder(tmp_path)
    (folder.path / "metrics.jsonl").write_text(json.dumps({"progress/env_steps": 1.0, "time": 1.0}) + "\n")
    with pytest.raises(CurveError, match="seen has no diagnostics"):
        draw_diagnostics([folder.path], tmp_path / "x.png")
    assert main(["plot", "seen", "--diagnostics", "--runs-dir", str(tmp_path)]) == 1
    assert "diagnostics-period" in capsys.readouterr().err
    assert not (folder.path / "diagnostics.png").exists()


def test_every_panel_shows_what_the_learner_writes(tmp_path):
    config = with_values(
        Config(network=NetworkConfig(**SMALL)),
        environment__env="tests.helpers.catch:make",
        learner__batch_size=8,
    )
    spec = describe_environment(config.environment)
    train_step = make_train_step(config, spec)
    batch = random_batch(config, spec, np.random.default_rng(1))
    written: dict[str, float] = {}
    with Diagnostics(train_step, 1, folder=tmp_path, write=written.update).watch(1, 100, batch):
        train_step.step(batch)
    for panel in PANELS:
        assert any(belongs(metric, panel.names) for metric in written), panel.title


def diagnosed(folder: Path, **metrics: list[float]) -> Path:
    """A run with these diagnostics; `__` stands for the slash in a name."""
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as file:
        for number in range(len(next(iter(metrics.values())))):
            record = {"diagnostics/update": 10.0 * number, "diagnostics/env_steps": 40.0 * number}
            record |= {f"diagnostics/{name.replace('__', '/')}": row[number] for name, row in metrics.items()}
            file.write(json.dumps(record) + "\n")
    return folder


def panel_of(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title().startswith(title))


def test_ranks_of_unlike_matrices_have_axes_of_their_own(tmp_path: Path, figures: list[Figure]) -> None:
    run = diagnosed(
        tmp_path / "a",
        **{"srank": [31.0] * 2, "srank_wide": [400.0] * 2, "reference__srank_0.01": [128.0] * 2},
    )
    draw_diagnostics([run], TARGET)
    of_32, of_512 = (panel_of(figures[0], f"srank of the features (up to {n}") for n in (32, 512))
    of_paper = panel_of(figures[0], "singular values above 1 % of the largest")
    assert [axes.lines[0].get_ydata()[0] for axes in (of_32, of_512, of_paper)] == [31, 400, 128]
    assert all(len(axes.lines) == 1 and axes.get_ylim()[0] == 0 for axes in (of_32, of_512, of_paper))


def test_a_norm_of_variances_is_not_called_one_of_features(tmp_path: Path, figures: list[Figure]) -> None:
    draw_diagnostics([diagnosed(tmp_path / "a", reference__feature_norm=[0.3, 0.4])], TARGET)
    assert panel_of(figures[0], "norm of the features' variances").lines


def test_rounding_is_not_drawn_as_data(tmp_path: Path, figures: list[Figure]) -> None:
    assert len(set(without_rounding([0.25, 0.25 + 1e-8]))) == 1
    assert without_rounding([0.25, 0.26]) == [0.25, 0.26]
    assert without_rounding([0.0, 0.0]) == [0.0, 0.0]
    shares = {f"dispatch_share__{expert}": [0.25, 0.25 - 1e-8 * expert] for expert in range(4)}
    draw_diagnostics([diagnosed(tmp_path / "a", **shares, parameter_norm__head=[60.0, 60.00001])], TARGET)
    panel = panel_of(figures[0], "dispatch share")
    assert all(len(set(line.get_ydata())) == 1 for line in panel.lines)
    assert panel.get_ylim() == (-0.03, 1.03)
    norms = panel_of(figures[0], "parameter norm")
    assert norms.get_ylim()[0] == 0
    figures[0].draw_without_rendering()
    assert norms.yaxis.get_offset_text().get_text() == ""


def test_legends_are_outside_and_name_runs_and_metrics(tmp_path: Path, figures: list[Figure]) -> None:
    """A metric that the second run alone has is named, too."""
    first = diagnosed(tmp_path / "first", combine_share__0=[0.5, 0.6], combine_share__1=[0.5, 0.4])
    second = diagnosed(tmp_path / "second", combine_share__2=[0.5, 0.6], update_norm__head=[1.0, 2.0])
    draw_diagnostics([first, second], TARGET)
    (figure,) = figures
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "second"]
    panel = panel_of(figure, "combine share")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        "expert 1",
        "expert 2",
        "expert 3",
    ]
    assert panel.get_legend().get_window_extent().y1 < panel.get_window_extent().y0
    assert [line.get_linestyle() for line in panel.lines] == ["-", "-", "--"]
    assert panel_of(figure, "update norm").lines[0].get_linestyle() == "--"


def test_every_run_has_its_kernel_with_a_colour_bar(tmp_path: Path, figures: list[Figure]) -> None:
    """As cosines: a sample with a large gradient does not bleach the others."""
    runs = [diagnosed(tmp_path / name, srank=[1.0, 2.0]) for name in ("first", "second")]
    for run, update in zip(runs, (10, 20), strict=True):
        kernel = np.array([[1e6, 10.0], [10.0, 1e-3]], np.float32)
        save_arrays(run, update, {"entk": kernel})
    draw_diagnostics(runs, TARGET)
    for name, update in (("first", 10), ("second", 20)):
        panel = panel_of(figures[0], f"{name}: empirical NTK at update {update}")
        (image,) = panel.images
        assert image.get_clim() == (-1, 1)
        np.testing.assert_allclose(
            image.get_array(), [[1.0, 10 / 1000**0.5], [10 / 1000**0.5, 1.0]], rtol=1e-5
        )
        assert image.colorbar.ax.get_ylabel() == "cosine of their gradients"
