"""Parts of the screen that a network's experts look at, as maps.

Tokens with a place on the feature map (one for each position or patch) have weights: for a Soft MoE an
expert's dispatch weights (arXiv 2308.00951), averaged over its slots; for a Top-k MoE the router's
probabilities. Tokens without a place (each a feature map or the whole state) are shown by their effect: the
map is the gradient of the largest value with respect to the pixels (saliency: Simonyan et al., 2014, arXiv
1312.6034), as far as it passes through that expert's output.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from apexpert.errors import ApexpertError
from models.config import is_imported
from models.geometry import centres
from models.mixtures.heads import MoEHead
from models.q_network import QNetwork

CELLS = 12
"""Most rows and columns of a gradient's map: 7 pixels each of the usual 84."""
PARTS = "parts of the screen: the tokens have no place on it"
UNIFORM = 0.05
"""An expert looks at everything alike where no weight is further than this from uniform, as a share."""


class NothingToShow(ApexpertError, ValueError):
    """The network has no experts; the message is one line."""


@dataclass(frozen=True)
class Maps:
    """How much each expert looks at each part of the screen."""

    weights: NDArray[np.float32]
    """(E, rows, columns), 0 or more."""
    row_edges: NDArray[np.float64]
    """(rows + 1,) where rows of tokens meet, from 0 (the screen's upper edge) to 1 (its lower edge)."""
    column_edges: NDArray[np.float64]
    """(columns + 1,) the same from left to right."""
    quantity: str
    """What the weights are, for labels: `dispatch weight` and the like."""
    cells: str
    """What the places of the weights are, for labels: `tokens` and the like."""

    @property
    def over_uniform(self) -> NDArray[np.float32]:
        """(E, rows, columns) weights over the mean of their map: 1 everywhere for an expert that looks at
        everything alike, T at the one of T places that another looks at. NaN for a map of zeros alone.
        """
        means = self.weights.mean(axis=(1, 2), keepdims=True)
        nothing = np.full_like(self.weights, np.nan)
        ratios: NDArray[np.float32] = np.divide(self.weights, means, out=nothing, where=means > 0)
        return ratios

    def in_words(self, expert: int) -> str:
        """Return how an expert looks: `uniform`, `peak x3.14` (times uniform), or that its map is zeros."""
        ratios = self.over_uniform[expert]
        if np.isnan(ratios).any():
            return f"no {self.quantity}"
        if abs(ratios - 1.0).max() <= UNIFORM:
            return "uniform"
        return f"peak x{ratios.max():.3g}"


@dataclass(frozen=True)
class Attention:
    """Maps and shares of E experts for one observation."""

    shares: NDArray[np.float32]
    """(E,) each expert's share of the combined tokens; they sum to 1."""
    maps: Maps
    q_values: NDArray[np.float32]
    """(A,) the network's values of the actions."""


def attention_of(network: QNetwork, observation: NDArray[np.uint8]) -> Attention:
    """Return maps for one observation (K, H, W), noise off; NothingToShow for a network without experts."""
    with torch.inference_mode():
        output = network(torch.from_numpy(observation[None]))
    moe = output.moe
    if moe is None:
        raise NothingToShow(f"a {network.config.head} head has no experts to show")
    mass = moe.combine_weights[0].float().sum(dim=(0, 2))
    # The total is T for a Soft MoE and at most T for a Top-k MoE, hence the division.
    shares = (mass / mass.sum().clamp_min(1e-12)).numpy()
    grid = network.tokenizer.grid
    q_values = output.q_values[0].float().numpy()
    if grid is None:
        # Outside inference mode, in which nothing has a gradient.
        return Attention(shares, gradient_maps(network, observation), q_values)
    is_routed = moe.router_logits is not None
    weights = moe.router_probabilities if is_routed else moe.dispatch_weights.mean(dim=3)
    # Tokens lie row by row, so T splits into the grid's rows and columns.
    maps = weights[0].float().T.reshape(-1, *grid).numpy()
    quantity = "router probability" if is_routed else "dispatch weight"
    edges = token_edges(network, 0), token_edges(network, 1)
    return Attention(shares, Maps(maps, *edges, quantity, "tokens"), q_values)


def gradient_maps(network: QNetwork, observation: NDArray[np.uint8]) -> Maps:
    """Return mean |d max Q / d pixel| through each expert's output, in equal parts of the screen.

    What passes through the combine weights, or bypasses the mixture, belongs to no expert.
    """
    # uint8 pixels have no gradient; the network takes the image in their place.
    image = network.to_image(torch.from_numpy(observation[None])).requires_grad_()
    seen: list[Tensor] = []
    experts = cast(MoEHead, network.head).moe.experts
    # A hook is called with (module, inputs, output); the experts' output is (outputs, hidden).
    hook = experts.register_forward_hook(lambda *call: seen.append(call[2][0]))
    with hook, torch.enable_grad():
        value = network(image).q_values.max()
    (outputs,) = seen  # (E, 1, S, D)
    # Chain rule: the gradient at each expert's output goes on through that expert alone.
    through = torch.autograd.grad(value, outputs, retain_graph=True)[0]
    pixels = [
        torch.autograd.grad(outputs[expert], image, through[expert], retain_graph=True)[0].abs().sum(dim=1)
        for expert in range(len(outputs))
    ]
    # A part is a pixel or more.
    rows, columns = (min(CELLS, size) for size in network.observation_shape[1:])
    weights = functional.adaptive_avg_pool2d(torch.cat(pixels), (rows, columns)).float().numpy()
    row_edges, column_edges = (np.linspace(0.0, 1.0, parts + 1) for parts in (rows, columns))
    return Maps(weights, row_edges, column_edges, "gradient", PARTS)


def token_edges(network: QNetwork, axis: int) -> NDArray[np.float64]:
    """Return where neighbouring tokens' places meet on the screen, axis 0 (height) or 1; cut at 0 and 1.

    A token's place is around the centre of its receptive field, as wide as the distance to the next centre:
    without padding no centre lies at the screen's border. For an encoder of the user's own, positions are
    assumed to be spread evenly.
    """
    grid = network.tokenizer.grid
    if grid is None:
        raise ValueError(f"{network.tokenizer.kind} tokens have no place")
    config, size = network.config, network.observation_shape[1 + axis]
    step = size / network.encoder.positions(*network.observation_shape[1:])[axis]
    first = step / 2
    if not is_imported(config.encoder):
        first, step = centres(config.encoder, size, config.padding)
    side = network.tokenizer.patch_size if network.tokenizer.kind == "per_patch" else 1
    left = first - step / 2
    edges: NDArray[np.float64] = (left + step * side * np.arange(grid[axis] + 1)) / size
    return edges.clip(0.0, 1.0)
