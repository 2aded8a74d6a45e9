"""What the experts of a network look at: where their slots' weights lie on the screen.

Of a Soft MoE an expert's weight of a token is its dispatch weight (arXiv 2308.00951), the mean over its
slots; of a Top-k MoE the router's probability. Tokens with a place on the feature map (one for each position
or patch) become a map over the screen; for other tokens there are only the experts' shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray

from models.q_network import QNetwork

HEAT = matplotlib.colormaps["inferno"]
STRENGTH = 0.75
"""How much of the colour there is where an expert looks most."""


class NothingToShow(ValueError):
    """The network has no experts; the message is one line."""


@dataclass(frozen=True)
class Attention:
    """What E experts look at in one observation."""

    shares: NDArray[np.float32]
    """(E,) each expert's part in the combined tokens; they add up to 1."""
    maps: NDArray[np.float32] | None
    """(E, rows, columns) weight of each place for an expert, over the part of the screen that tokens cover;
    None where tokens have no place."""
    coverage: tuple[float, float]
    """Part of the screen's height and width that the maps cover, from the top left corner."""


def attention_of(network: QNetwork, observation: NDArray[np.uint8]) -> Attention:
    """Weights for one observation (K, H, W), noise off; NothingToShow for a network without experts."""
    with torch.inference_mode():
        moe = network(torch.from_numpy(observation[None])).moe
    if moe is None:
        raise NothingToShow(f"a {network.config.head} head has no experts to show")
    probabilities = moe.router_probabilities[0].float()
    shares = moe.combine_weights[0].float().sum(dim=(0, 2))
    shares = (shares / shares.sum().clamp_min(1e-12)).numpy()
    if network.tokenizer.grid is None:
        return Attention(shares, None, (1.0, 1.0))
    routed = moe.router_logits is not None
    weights = probabilities if routed else moe.dispatch_weights[0].float().mean(dim=2)
    maps = weights.T.reshape(-1, *network.tokenizer.grid).numpy()
    return Attention(shares, maps, _coverage(network))


def _coverage(network: QNetwork) -> tuple[float, float]:
    """Patches leave out what is left of the feature map at its right and lower edge."""
    if network.tokenizer.kind != "per_patch" or network.tokenizer.grid is None:
        return 1.0, 1.0
    _, height, width = network.observation_shape
    rows, columns = network.encoder.positions(height, width)
    size = network.tokenizer.patch_size
    return network.tokenizer.grid[0] * size / rows, network.tokenizer.grid[1] * size / columns


def heat_picture(
    picture: NDArray[np.uint8], weights: NDArray[np.float32], coverage: tuple[float, float]
) -> NDArray[np.uint8]:
    """A picture (H, W) or (H, W, 3), darkened, with the weights (rows, columns) in colour over it; (H, W, 3).

    Colours run from the smallest weight (dark) to the largest, also where they hardly differ: how much they
    do is said beside the picture.
    """
    rgb = _rgb(picture).astype(np.float32) / 255.0
    height, width = rgb.shape[:2]
    bottom, right = round(height * coverage[0]), round(width * coverage[1])
    rows = np.minimum(np.arange(bottom) * weights.shape[0] // bottom, weights.shape[0] - 1)
    columns = np.minimum(np.arange(right) * weights.shape[1] // right, weights.shape[1] - 1)
    low, high = float(weights.min()), float(weights.max())
    heat = (weights - low) / max(high - low, 1e-12)
    covered = np.zeros((height, width), np.float32)
    covered[:bottom, :right] = heat[rows][:, columns]
    alpha = STRENGTH * covered[..., None]
    mixed = (1 - alpha) * rgb * 0.6 + alpha * HEAT(covered)[..., :3].astype(np.float32)
    return (255 * mixed.clip(0, 1)).astype(np.uint8)


def share_picture(shares: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bars of the experts' shares (E,), the highest over the whole height; (*size, 3)."""
    height, width = size
    image = np.full((height, width, 3), 24, np.uint8)
    edges = np.linspace(0, width, len(shares) + 1).astype(int)
    for share, left, right in zip(shares / max(shares.max(), 1e-12), edges, edges[1:], strict=False):
        top = height - max(1, round(float(share) * (height - 1)))
        image[top:, left : max(left + 1, right - 1)] = (235, 130, 40)
    return image


def panels(picture: NDArray[np.uint8], attention: Attention) -> list[NDArray[np.uint8]]:
    """The screen, then one picture an expert, or one of the shares where tokens have no place."""
    rgb = _rgb(picture)
    if attention.maps is None:
        return [rgb, share_picture(attention.shares, rgb.shape[:2])]
    return [rgb, *(heat_picture(picture, weights, attention.coverage) for weights in attention.maps)]


def film_frame(picture: NDArray[np.uint8], attention: Attention) -> NDArray[np.uint8]:
    """All panels side by side in rows of at most 5, for a video."""
    images = panels(picture, attention)
    across = min(5, len(images))
    images += [np.zeros_like(images[0])] * (-len(images) % across)
    rows = [np.concatenate(images[i : i + across], axis=1) for i in range(0, len(images), across)]
    return np.concatenate(rows, axis=0)


def draw_sheet(moments: Sequence[tuple[int, NDArray[np.uint8], Attention]], title: str, target: Path) -> Path:
    """A contact sheet: one row for each moment (env step, picture, attention), one column an expert."""
    rows = [panels(picture, attention) for _, picture, attention in moments]
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.9 * columns + 0.6, 2.3 * len(rows) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for row, (step, _, attention) in enumerate(moments):
        for column, image in enumerate(rows[row]):
            axis = axes[row][column]
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(_label(column, attention), fontsize=8)
        axes[row][0].set_ylabel(f"env step {step:,}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target


def _label(column: int, attention: Attention) -> str:
    if column == 0:
        return "screen"
    if attention.maps is None:
        return "shares of the experts, 1 to " + str(len(attention.shares))
    weights = attention.maps[column - 1]
    peak = weights.max() / max(weights.mean(), 1e-12)
    return f"expert {column}: share {attention.shares[column - 1]:.0%}, peak {peak:.1f}x"


def _rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture
