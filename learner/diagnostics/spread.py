"""How much a network's features and values differ between states, over more states than a batch has.

A head that ignores its input has large features that are nearly the same for every state: their standard
deviation is a percent of their root mean square, and their rank is only that of the mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from learner.diagnostics.ranks import singular_values_of_gram, srank
from models.q_network import QNetwork

ROWS = 512
"""States used: enough for a rank that a batch of 32 would cap."""
CHUNK = 64


@torch.no_grad()
def spread(network: QNetwork, observations: Tensor) -> dict[str, float]:
    """Return statistics over N states, uint8 (N, K, H, W), noise off, by names without `diagnostics/`.

    `spread/<part>` for `encoder`, `features` (the output layer's input) and `q`: the standard deviation over
    states divided by the root mean square, each over all entries; from 0 (all states alike) to about 1.
    `srank_wide` and `srank_centred`: effective rank (`srank` in ranks.py) of the features, and of the
    features minus their mean; `spread_rows` is N.
    """
    parts = [_parts_of(network, chunk) for chunk in torch.split(observations, CHUNK)]
    encoder, features, q_values = (torch.cat(part) for part in zip(*parts, strict=True))
    gram = features.double() @ features.double().T
    return {
        "spread/encoder": deviation_over_rms(encoder),
        "spread/features": deviation_over_rms(features),
        "spread/q": deviation_over_rms(q_values),
        "srank_wide": float(srank(singular_values_of_gram(gram))),
        "srank_centred": float(srank(singular_values_of_gram(_centred(gram)))),
        "spread_rows": float(len(observations)),
    }


def deviation_over_rms(rows: Tensor) -> float:
    """Return the root mean variance over rows (N, F), divided by the root mean square; 0 for all zeros."""
    wide = rows.double()
    size = wide.square().mean().sqrt().item()
    return (wide.var(dim=0, correction=0).mean().sqrt().item() / size) if size else 0.0


def _centred(gram: Tensor) -> Tensor:
    """Return the Gram matrix (N, N) of the rows minus their mean, at half the cost of computing it anew."""
    means: Tensor = gram.mean(dim=0)
    return gram - means - means.unsqueeze(1) + means.mean()


@contextmanager
def recorded_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list that receives the layer's first input in each forward pass meanwhile."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _parts_of(network: QNetwork, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return encoder maps (B, C * h * w), features (B, F) and values (B, A) of one forward pass."""
    with recorded_inputs(network.tokenizer) as maps, recorded_inputs(network.output) as features:
        q_values = network(observations).q_values
    return maps[0].flatten(1), features[0], q_values
