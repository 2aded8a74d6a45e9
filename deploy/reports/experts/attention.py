"""What the experts of a network look at: where their slots' weights lie on the screen.

Of a Soft MoE an expert's weight of a token is its dispatch weight (arXiv 2308.00951), the mean over its
slots; of a Top-k MoE the router's probability. Tokens with a place on the feature map (one for each position
or patch) become a map over the screen; for other tokens there are only the experts' shares.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from apexpert.errors import ApexpertError
from models.config import is_imported
from models.geometry import centres
from models.q_network import QNetwork


class NothingToShow(ApexpertError, ValueError):
    """The network has no experts; the message is one line."""


@dataclass(frozen=True)
class Maps:
    """Weights of tokens that have a place, as maps over the screen."""

    weights: NDArray[np.float32]
    """(E, rows, columns)"""
    row_edges: NDArray[np.float64]
    """(rows + 1,) where rows of tokens meet, from 0 (the screen's upper edge) to 1 (its lower edge)."""
    column_edges: NDArray[np.float64]
    """(columns + 1,) the same from left to right."""

    @property
    def peaks(self) -> NDArray[np.float32]:
        """(E,) the largest weight of each expert over its mean one: 1 looks everywhere, T at one token."""
        flat = self.weights.reshape(len(self.weights), -1)
        peaks: NDArray[np.float32] = flat.max(axis=1) / np.maximum(flat.mean(axis=1), 1e-12)
        return peaks


@dataclass(frozen=True)
class Attention:
    """What E experts look at in one observation."""

    shares: NDArray[np.float32]
    """(E,) each expert's part in the combined tokens; they add up to 1."""
    maps: Maps | None
    """None where tokens have no place."""


def attention_of(network: QNetwork, observation: NDArray[np.uint8]) -> Attention:
    """Weights for one observation (K, H, W), noise off; NothingToShow for a network without experts."""
    with torch.inference_mode():
        moe = network(torch.from_numpy(observation[None])).moe
    if moe is None:
        raise NothingToShow(f"a {network.config.head} head has no experts to show")
    mass = moe.combine_weights[0].float().sum(dim=(0, 2))
    shares = (mass / mass.sum().clamp_min(1e-12)).numpy()
    grid = network.tokenizer.grid
    if grid is None:
        return Attention(shares, None)
    is_routed = moe.router_logits is not None
    weights = moe.router_probabilities if is_routed else moe.dispatch_weights.mean(dim=3)
    maps = weights[0].float().T.reshape(-1, *grid).numpy()
    return Attention(shares, Maps(maps, token_edges(network, 0), token_edges(network, 1)))


def token_edges(network: QNetwork, axis: int) -> NDArray[np.float64]:
    """Where the places of neighbouring tokens meet on the screen, axis 0 (height) or 1; cut at 0 and 1.

    A token's place is around the centre of its receptive field, as wide as the distance to the next one's:
    without padding the screen's border is the centre of none. The positions of an encoder of the user's own
    are taken to be spread evenly.
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
