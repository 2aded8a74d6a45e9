"""What experts look at: the geometry of the maps, and `apexpert show`."""

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from actors.rendering import picture_of
from deploy.cli.main import main
from deploy.reports.experts.attention import NothingToShow, attention_of, token_edges
from deploy.reports.experts.film import FilmFrames
from deploy.reports.experts.heat import Moment
from deploy.reports.experts.watcher import Moments
from models.config import NetworkConfig
from models.q_network import build_network
from tests.helpers.runs.network_runs import SMALL, run_folder


def network_of(**options):
    return build_network(NetworkConfig(**(SMALL | options)), 3, seed=1)


def observation(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (4, 84, 84), dtype=np.uint8)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"num_experts": 4}, (4, 11, 11)),
        ({"num_experts": 3, "padding": "valid"}, (3, 7, 7)),
        ({"num_experts": 4, "head": "top_k_moe"}, (4, 11, 11)),
        ({"num_experts": 2, "tokens": "per_patch"}, (2, 3, 3)),
        ({"num_experts": 2, "tokens": "per_feature_map"}, (2, 12, 12)),
        ({"num_experts": 3, "tokens": "per_sample"}, (3, 12, 12)),
        ({"num_experts": 3, "tokens": "per_sample", "head": "top_k_moe"}, (3, 12, 12)),
    ],
)
def test_every_kind_of_token_has_maps_and_shares(options, shape):
    attention = attention_of(network_of(**options), observation())
    assert attention.shares.shape == (options["num_experts"],)
    assert attention.shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert attention.maps.weights.shape == shape
    # An expert that a Top-k router did not choose has a map of zeros.
    looks = attention.maps.weights.any(axis=(1, 2))
    np.testing.assert_allclose(attention.maps.over_uniform[looks].mean(axis=(1, 2)), 1.0, rtol=1e-5)
    assert np.isnan(attention.maps.over_uniform[~looks]).all()
    values = network_of(**options)(torch.from_numpy(observation()[None])).q_values[0]
    np.testing.assert_allclose(attention.q_values, values.detach().numpy(), rtol=1e-4, atol=1e-5)
    if "tokens" not in options and options.get("head") != "top_k_moe":  # dispatch is a softmax over tokens
        np.testing.assert_allclose(attention.maps.weights.sum(axis=(1, 2)), 1.0, rtol=1e-5)


def test_the_maps_are_the_dispatch_weights_row_by_row():
    network, seen = network_of(num_experts=4), observation()
    attention = attention_of(network, seen)
    moe = network(torch.from_numpy(seen[None])).moe
    expected = moe.dispatch_weights[0].detach().mean(dim=2).numpy()
    for token in (0, 1, 10, 11, 120):
        np.testing.assert_allclose(
            attention.maps.weights[:, token // 11, token % 11], expected[token], rtol=1e-5
        )


def test_of_a_token_a_state_an_expert_looks_where_its_value_comes_from():
    """Expert 0 is given the features of one position alone, expert 1 those of another, expert 2 none."""
    network = network_of(num_experts=3, tokens="per_sample", padding="valid")
    positions = [(0, 0), (6, 3)]
    with torch.no_grad():
        weights = network.head.moe.experts.weight_in.view(3, 7, 7, 64, 8)
        for expert in range(3):
            kept = weights[expert, *positions[expert]].clone() if expert < 2 else None
            weights[expert] = 0.0
            if kept is not None:
                weights[expert, *positions[expert]] = kept
    maps = attention_of(network, observation()).maps
    # A position of Nature with VALID padding sees 36 pixels, 8 apart: 0 to 35, and 48 to 83 by 24 to 59.
    rows, columns = np.meshgrid(*2 * [(np.arange(12) + 0.5) * 7], indexing="ij")
    inside = (rows < 36) & (columns < 36), (rows > 48) & (columns > 24) & (columns < 60)
    for weights, place in zip(maps.weights, inside, strict=False):
        assert weights[place].sum() > 0.95 * weights.sum() > 0
    assert maps.weights[2].max() == 0


def test_the_parts_of_the_experts_and_what_goes_past_them_make_the_whole_gradient():
    """With one expert all the value passes through it but for the residual, which is not there."""
    network, seen = network_of(num_experts=1, tokens="per_sample"), observation()
    image = network.to_image(torch.from_numpy(seen[None])).requires_grad_()
    whole = torch.autograd.grad(network(image).q_values.max(), image)[0].abs().sum(dim=1)
    expected = torch.nn.functional.adaptive_avg_pool2d(whole, 12).numpy()
    np.testing.assert_allclose(attention_of(network, seen).maps.weights, expected, rtol=1e-4)


def test_patches_leave_out_the_edge():
    network = network_of(num_experts=2, tokens="per_patch", patch_size=3)
    for axis in (0, 1):
        edges = token_edges(network, axis)
        assert len(edges) == 4
        assert edges[0] == pytest.approx(0.0, abs=4.0 / 84)
        assert edges[-1] == pytest.approx(9 / 11, abs=4.0 / 84)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("encoder", ["nature", "impala"])
def test_a_token_is_where_its_receptive_field_is(encoder, padding):
    """The pixels that move a feature map's position, by gradients, are centred in the token's place."""
    network = network_of(encoder=encoder, num_experts=2, padding=padding)
    edges = 84 * token_edges(network, 0)
    frames = torch.rand((1, 4, 84, 84), generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = network.encoder(frames, 1.0)
    for row in (3, 4):
        gradient = torch.autograd.grad(features[0, :, row, 4].sum(), frames, retain_graph=True)[0]
        rows = gradient.abs().sum(dim=(0, 1, 3))
        centre = float((rows * (torch.arange(84) + 0.5)).sum() / rows.sum())
        assert centre == pytest.approx((edges[row] + edges[row + 1]) / 2, abs=3.0)


@pytest.mark.parametrize("tokens", ["per_conv", "per_sample"])
def test_a_small_game_has_maps_no_finer_than_its_pixels(tokens):
    config = NetworkConfig(**(SMALL | {"encoder": "minatar", "padding": "valid", "tokens": tokens}))
    network = build_network(config, 3, observation_shape=(7, 10, 10), seed=1)
    seen = np.random.default_rng(0).integers(0, 2, (7, 10, 10), dtype=np.uint8) * 255
    maps = attention_of(network, seen).maps
    side = 8 if tokens == "per_conv" else 10
    assert maps.weights.shape == (4, side, side)
    # An unpadded 3x3 kernel leaves a pixel at each border without a token.
    border = 0.1 if tokens == "per_conv" else 0.0
    np.testing.assert_allclose(maps.row_edges, np.linspace(border, 1.0 - border, side + 1))
    np.testing.assert_allclose(maps.column_edges, maps.row_edges)
    frame = FilmFrames("a game", ("NOOP", "LEFT", "RIGHT"))(
        Moment(1, 0.0, picture_of(seen), attention_of(network, seen), 0)
    )
    assert frame.ndim == 3
    assert frame.shape[2] == 3


@pytest.mark.parametrize("head", ["dense", "pooled"])
def test_without_experts_there_is_nothing_to_show(head):
    with pytest.raises(NothingToShow, match=head):
        attention_of(network_of(head=head), observation())


def test_moments_stay_spread_over_a_game_of_unknown_length():
    moments = Moments(at_least=5)
    for step in range(1000):
        moments.add(Moment(step, 0.0, np.zeros((1, 1), np.uint8), None, 0))
        assert min(step + 1, 5) <= len(moments.kept) <= 10
    steps = [moment.env_step for moment in moments.kept]
    assert len(set(np.diff(steps))) == 1
    assert steps[0] == 0


def test_show_writes_a_sheet_and_a_film(tmp_path, capsys):
    folder = run_folder(tmp_path, num_experts=2)
    assert main(["show", "seen", "--runs-dir", str(tmp_path), "--frames", "2", "--steps", "25"]) == 0
    sheet, film = (folder.videos / f"experts-update-000000056.{end}" for end in ("png", "mp4"))
    assert capsys.readouterr().out.split() == [str(sheet), str(film)]
    assert imageio.imread(sheet).std() > 5
    frames = imageio.mimread(film, memtest=False)
    assert len(frames) > 5
    # Two lines of words over the screen and two experts side by side, the scale below them.
    assert frames[0].shape[:2] == (2 * 20 + (252 + 2 * 20 + 6) + 72, 3 * (252 + 6))


def test_a_film_that_the_disk_has_no_room_for_costs_no_sheet(tmp_path, capsys):
    folder = run_folder(tmp_path, num_experts=2)
    sheet, film = (folder.videos / f"experts-update-000000056.{end}" for end in ("png", "mp4"))
    film.symlink_to("/dev/full")
    assert main(["show", "seen", "--runs-dir", str(tmp_path), "--frames", "2", "--steps", "25"]) == 1
    captured = capsys.readouterr()
    assert captured.out.split() == [str(sheet)]
    assert sheet.exists()
    assert captured.err.splitlines()[-1].startswith(f"apexpert: {film}: ffmpeg could not write it")


@pytest.mark.parametrize(("kind", "flag"), [("png", "--no-video"), ("mp4", "--video")])
def test_show_plays_nothing_for_a_file_that_it_could_not_write(tmp_path, capsys, monkeypatch, kind, flag):
    folder = run_folder(tmp_path, num_experts=2)
    (folder.videos / f"experts-update-000000056.{kind}").mkdir()
    monkeypatch.setattr("deploy.cli.network.show._play", lambda *_: pytest.fail("it plays"))
    assert main(["show", "seen", "--runs-dir", str(tmp_path), flag]) == 2
    err = capsys.readouterr().err
    assert err.startswith("apexpert: --output: ")
    assert err.endswith(f"experts-update-000000056.{kind}: Is a directory\n")


def test_show_names_what_is_wrong(tmp_path, capsys):
    run_folder(tmp_path, head="dense")
    assert main(["show", "seen", "--runs-dir", str(tmp_path)]) == 2
    assert "dense head" in capsys.readouterr().err
    assert main(["show", "seen", "--runs-dir", str(tmp_path), "--frames", "0"]) == 2
    assert "--frames" in capsys.readouterr().err
